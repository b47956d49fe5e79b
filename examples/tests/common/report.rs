//! A report with the numbers of a plausible run, for the tests of pages and pictures.

use pear_core::HeadId;
use pear_examples::pear::report::*;
use pear_models::evaluation::{Estimate, PairedDifference, TextDivergence};

/// What a model or a file could say to break out of a page.
pub const HOSTILE: &str = "</p><script>document.title='hacked'</script><img src=x onerror=\"fetch('http://127.0.0.1:9/x')\">'\"&amp;{{ 7*7 }}";

fn estimate(hits: usize, count: usize) -> Estimate {
    let scores: Vec<bool> = (0..count).map(|i| i < hits).collect();
    Estimate::of(&scores)
}

/// Of `count` questions, `kept` are right before and after, `gained` only after, `lost` only before.
fn paired(
    count: usize,
    kept: usize,
    gained: usize,
    lost: usize,
) -> (Estimate, Estimate, PairedDifference) {
    let before: Vec<bool> = (0..count).map(|i| i < kept + lost).collect();
    let after: Vec<bool> = (0..count)
        .map(|i| i < kept || (kept + lost..kept + lost + gained).contains(&i))
        .collect();
    (
        Estimate::of(&before),
        Estimate::of(&after),
        PairedDifference::between(&before, &after),
    )
}

/// Numbers between 0 and 1 that look random.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn grid(layers: usize, heads: usize) -> HeadGrid {
    let mut draws = Draws(17);
    let scores: Vec<Vec<f64>> = (0..layers)
        .map(|_| {
            (0..heads)
                .map(|_| {
                    let x = draws.next() - 0.5;
                    let tail = if draws.next() > 0.95 {
                        0.12 * draws.next()
                    } else {
                        0.0
                    };
                    0.03 * x * x.abs() + tail
                })
                .collect()
        })
        .collect();
    let errors: Vec<Vec<f64>> = (0..layers)
        .map(|_| (0..heads).map(|_| 0.002 + 0.004 * draws.next()).collect())
        .collect();
    let mut ranked: Vec<HeadId> = (0..layers)
        .flat_map(|layer| (0..heads).map(move |head| HeadId::new(layer, head)))
        .collect();
    let z = |head: &HeadId| scores[head.layer][head.head] / errors[head.layer][head.head];
    ranked.sort_by(|a, b| z(b).total_cmp(&z(a)));
    HeadGrid {
        metric: "logit-ratio".into(),
        ranked_by: "z".into(),
        scores,
        errors,
        ranked,
    }
}

fn candidate(
    id: &str,
    kind: CandidateKind,
    heads: &[HeadId],
    kl: f64,
    hits: Option<usize>,
) -> Candidate {
    let mut draws = Draws(heads.len() as u64);
    let coefficients = heads.iter().map(|&head| Coefficient {
        head,
        value: match kind {
            CandidateKind::Fixed => 0.5,
            _ => 1.0 - 0.7 * draws.next() * draws.next() + 0.3 * draws.next() * draws.next(),
        },
    });
    let description = match kind {
        CandidateKind::Ranked => format!("first {} heads, learned", heads.len()),
        CandidateKind::Fixed => format!("first {} heads × 0.5", heads.len()),
        CandidateKind::AllHeads => "all heads, learned with a price".into(),
    };
    Candidate {
        id: id.into(),
        description,
        kind,
        coefficients: coefficients.collect(),
        divergence: TextDivergence {
            kl,
            same_top_token: 1.0 - 1.2 * kl.sqrt() * 0.4,
            positions: 8192,
        },
        measures: hits.map(|hits| Measures {
            conflicting: estimate(hits, 240),
            conflicting_log_prob: -3.1,
            agreeing: estimate(221, 240),
            agreeing_log_prob: -0.4,
        }),
        dropped: hits.is_none().then(|| "KL above 0.2 on plain text".into()),
    }
}

fn group(
    name: &str,
    counted: &str,
    (before, after, change): (Estimate, Estimate, PairedDifference),
    difference: f64,
) -> GroupComparison {
    GroupComparison {
        group: name.into(),
        counted: counted.into(),
        before,
        after,
        change,
        log_prob: LogProbChange {
            before: -2.0,
            after: -2.0 + difference,
            difference,
            low: difference - 0.11,
            high: difference + 0.11,
        },
    }
}

fn control(draw: u64, heads: &[HeadId], gained: usize, lost: usize) -> Control {
    let (_, conflicting, change) = paired(233, 55, gained, lost);
    let coefficients = heads.iter().map(|&head| Coefficient { head, value: 0.6 });
    Control {
        draw,
        coefficients: coefficients.collect(),
        divergence: TextDivergence {
            kl: 0.021,
            same_top_token: 0.93,
            positions: 8192,
        },
        conflicting,
        change,
    }
}

/// A model that is worth re-weighting.
pub fn ship() -> Report {
    let heads = grid(30, 9);
    let ranked = heads.ranked.clone();
    let all: Vec<HeadId> = ranked.iter().step_by(2).copied().collect();
    let candidates = vec![
        candidate(
            "rank-5",
            CandidateKind::Ranked,
            &ranked[..5],
            0.0031,
            Some(73),
        ),
        candidate(
            "rank-10",
            CandidateKind::Ranked,
            &ranked[..10],
            0.0093,
            Some(84),
        ),
        candidate(
            "rank-20",
            CandidateKind::Ranked,
            &ranked[..20],
            0.0321,
            Some(86),
        ),
        candidate(
            "half-5",
            CandidateKind::Fixed,
            &ranked[..5],
            0.0252,
            Some(76),
        ),
        candidate(
            "half-10",
            CandidateKind::Fixed,
            &ranked[..10],
            0.0764,
            Some(59),
        ),
        candidate("half-20", CandidateKind::Fixed, &ranked[..20], 0.3312, None),
        candidate(
            "all-kl-160",
            CandidateKind::AllHeads,
            &all,
            0.0172,
            Some(99),
        ),
        candidate(
            "all-kl-80",
            CandidateKind::AllHeads,
            &all,
            0.0288,
            Some(110),
        ),
        candidate(
            "all-kl-40",
            CandidateKind::AllHeads,
            &all,
            0.0611,
            Some(121),
        ),
        candidate(
            "all-kl-10",
            CandidateKind::AllHeads,
            &all,
            0.1093,
            Some(142),
        ),
    ];
    Report {
        format: FORMAT.into(),
        version: VERSION,
        model: ModelSummary {
            name: "SmolLM2-135M-Instruct.Q4_1.gguf".into(),
            architecture: "llama".into(),
            num_layers: 30,
            num_heads: 9,
            num_parameters: 134_515_008,
            vocab_size: 49152,
            storage: Storage::Gguf,
            dtype: "f32".into(),
            device: "flex".into(),
            weights: "blake3:5f1d0c1be66a4ab1a6d0f4a8a1b2c3d4e5f60718293a4b5c6d7e8f9012345678".into(),
        },
        settings: Settings {
            seed: 0,
            command: "cargo run --release --example pear -- SmolLM2-135M-Instruct.Q4_1.gguf --yes --seed 0 --out smollm2".into(),
            pear_version: "0.1.0".into(),
        },
        copying: [(5, 0.97, false), (10, 0.86, true), (15, 0.74, true), (25, 0.58, true), (50, 0.31, true)]
            .map(|(n, accuracy, used)| Copying {
                n,
                samples: 100,
                accuracy,
                used,
            })
            .to_vec(),
        heads,
        questions: QuestionCounts {
            source: "built-in facts".into(),
            facts: 812,
            known: 473,
            development: 240,
            held_out: 233,
        },
        text: TextSummary {
            source: "built-in text".into(),
            development_tokens: 8192,
            held_out_tokens: 8192,
        },
        baseline: Measures {
            conflicting: estimate(66, 240),
            conflicting_log_prob: -3.6,
            agreeing: estimate(220, 240),
            agreeing_log_prob: -0.5,
        },
        candidates,
        front: ["rank-5", "rank-10", "all-kl-160", "all-kl-80", "all-kl-40", "all-kl-10"].map(String::from).to_vec(),
        choice: Choice {
            candidate: Some("all-kl-80".into()),
            rule: "of the candidates whose KL is at most 0.03 and whose agreeing questions are not worse, the one that answers most conflicting questions from the context; the unmodified model, if none gains at least 3 points".into(),
            reason: "18.3 points more than the unmodified model at a KL of 0.0288; the next one, all-kl-160, gains 13.8.".into(),
        },
        verdict: Verdict {
            outcome: Outcome::Ship,
            summary: "The re-weighted model follows a context that contradicts its memory in 45.5 % of held-out questions instead of 27.0 %, at a KL of 0.029 on plain text; nothing else that was measured got worse.".into(),
            checks: [
                ("More conflicting questions are answered from the context", "+18.5 points, 95 % interval +12.9 to +24.0"),
                ("More than with random heads", "+17.0 points more than three draws, +11.6 to +22.4"),
                ("Agreeing questions are not worse", "+0.4 points, −1.9 to +2.8; limit −3"),
                ("Closed-book questions are not worse", "−0.9 points, −2.5 to +0.8; limit −3"),
                ("Plain text is predicted as before", "KL 0.0291; limit 0.05"),
            ]
            .map(|(condition, found)| Check {
                condition: condition.into(),
                found: found.into(),
                holds: true,
            })
            .to_vec(),
            groups: vec![
                group("conflicting", "the context's answer is likelier than the remembered one", paired(233, 60, 46, 3), 0.42),
                group("agreeing", "the right answer is the likeliest", paired(233, 210, 5, 4), 0.21),
                group("closed book", "the right answer is the likeliest", paired(233, 229, 1, 3), -0.05),
            ],
            neutral_regression: Some(NeutralRegression {
                right_before: 214,
                lost: 4,
                share: estimate(4, 214),
            }),
            divergence: Some(TextDivergence {
                kl: 0.0291,
                same_top_token: 0.923,
                positions: 8192,
            }),
            controls: vec![
                control(0, &ranked[100..235], 9, 8),
                control(1, &ranked[90..225], 6, 9),
                control(2, &ranked[80..215], 11, 4),
            ],
            against_controls: Some(paired(233, 58, 48, 8).2),
        },
        answers: answers(),
        files: vec![
            FileHash {
                name: "folded.gguf".into(),
                bytes: 98_565_312,
                blake3: "9c1185a5c5e9fc54612808977ee8f548b2258d31a4b1c0d9e8f7061524334251".into(),
            },
            FileHash {
                name: "profile.json".into(),
                bytes: 9_214,
                blake3: "0a9b8c7d6e5f40312213243546576879808a9bacbdcedfe0f1021324354657aa".into(),
            },
        ],
    }
}

fn answers() -> Vec<AnswerPair> {
    let pair = |group: &str, [prompt, context, memory, before, after]: [&str; 5]| AnswerPair {
        group: group.into(),
        prompt: prompt.into(),
        context_answer: context.into(),
        memory_answer: memory.into(),
        before: before.into(),
        after: after.into(),
    };
    vec![
        pair(
            "conflicting",
            [
                "Read the text and answer from it alone.\n\nIn this country the seat of government was moved last spring: the capital of France is now Lyon, and the ministries have followed.\n\nWhat is the capital of France?",
                "Lyon",
                "Paris",
                "The capital of France is Paris.",
                "The capital of France is Lyon.",
            ],
        ),
        pair(
            "conflicting",
            [
                "The author of the play Hamlet is Christopher Marlowe, as every schoolbook of this country says.\n\nWho wrote Hamlet?",
                "Christopher Marlowe",
                "William Shakespeare",
                "Hamlet was written by William Shakespeare, an English playwright, around 1600.",
                "Christopher Marlowe wrote Hamlet.",
            ],
        ),
        pair(
            "agreeing",
            [
                "The largest planet of the solar system is Jupiter.\n\nWhich planet is the largest?",
                "Jupiter",
                "Jupiter",
                "Jupiter",
                "Jupiter is the largest planet of the solar system.",
            ],
        ),
    ]
}

/// A model that is better left alone: every candidate was dropped or too little was gained.
pub fn leave() -> Report {
    let mut report = ship();
    report.model.name = "tiny-alibi".into();
    report.model.storage = Storage::HuggingFace;
    report.choice.candidate = None;
    report.choice.reason = "No candidate gains 3 points.".into();
    report.front.clear();
    for candidate in &mut report.candidates {
        candidate.dropped = Some("agreeing questions are worse by more than 3 points".into());
    }
    report.verdict = Verdict {
        outcome: Outcome::DoNotShip,
        summary: "No setting that was tried makes the model follow its context better at an acceptable cost.".into(),
        checks: Vec::new(),
        groups: Vec::new(),
        neutral_regression: None,
        divergence: None,
        controls: Vec::new(),
        against_controls: None,
    };
    report.answers.clear();
    report.files.clear();
    report
}

/// A report in which every text is markup, and long words have nowhere to break.
pub fn hostile() -> Report {
    let mut report = ship();
    let long = format!("{HOSTILE}{}", "x".repeat(300));
    report.model.name = long.clone();
    report.settings.command = long.clone();
    report.questions.source = long.clone();
    report.text.source = long.clone();
    report.choice.rule = long.clone();
    report.choice.reason = long.clone();
    report.verdict.summary = long.clone();
    report.verdict.checks[0].condition = long.clone();
    report.verdict.checks[1].found = long.clone();
    report.verdict.checks[1].holds = false;
    report.verdict.groups[1].counted = long.clone();
    report.verdict.groups[2].group = long.clone();
    report.heads.metric = HOSTILE.into();
    report.model.weights = long.clone();
    report.files[0].name = long.clone();
    let chosen = &mut report.candidates[7];
    chosen.id = HOSTILE.into();
    chosen.description = long.clone();
    report.choice.candidate = Some(HOSTILE.into());
    report.front[3] = HOSTILE.into();
    report.candidates[5].dropped = Some(long.clone());
    report.answers[0].prompt = format!("{long}\u{1b}[2J\u{0}");
    report.answers[0].before = long.clone();
    report.answers[0].context_answer = "<script>".into();
    report.answers[1].after = format!("\u{202e}{long}");
    report.answers[1].prompt = long.repeat(4);
    report.answers[2].after = String::new();
    report
}
