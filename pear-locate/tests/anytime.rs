//! Locating within a budget.

mod common;

use std::ops::ControlFlow;

use common::{Copier, TestDecoder, VOCAB, plain};
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadId, ProxyTask};
use pear_locate::{
    Ablation, Budget, Error, Event, LocateOptions, Locator, Metric, Outcome, RankBy, Report,
    Rounds, Scores, locate, patched_logits_of, proxy_batches,
};

fn batches(lengths: &[(usize, usize)]) -> Vec<ProxyBatch> {
    proxy_batches(&ProxyTask::new(VOCAB, &[0], 5).unwrap(), lengths).unwrap()
}

fn options(rank_by: RankBy) -> LocateOptions {
    LocateOptions {
        metric: Metric::LogitDiff,
        rank_by,
        ..LocateOptions::default()
    }
}

fn decoder() -> TestDecoder {
    TestDecoder::new(3, plain(), false)
}

/// For the top four of 18 heads: half of what the uniform sweep takes.
fn half(model: &TestDecoder, options: &LocateOptions, batches: &[ProxyBatch]) -> Budget {
    Budget::new(4, Budget::of_uniform(&model.shape(), options, batches) / 2)
}

fn run(rank_by: RankBy) -> Report {
    let (model, options, batches) = (decoder(), options(rank_by), batches(&[(6, 40), (4, 60)]));
    let budget = half(&model, &options, &batches);
    Locator::new(&model, options)
        .within(budget)
        .run(&batches)
        .unwrap()
}

#[test]
fn a_planted_head_is_settled_at_once() {
    let model = Copier::new(
        8,
        &[&[0.5, 0.25, 0.125, 0.0], &[3.0, 0.5, -2.0, 0.125]],
        false,
    );
    let batches = batches(&[(8, 30), (5, 30)]);
    // Without any noise z says nothing: errors are rounding alone.
    for rank_by in [RankBy::LowerBound, RankBy::Score] {
        let options = LocateOptions {
            ablation: Ablation::Zero,
            ..options(rank_by)
        };
        let uniform = Budget::of_uniform(&model.shape(), &options, &batches);
        let report = Locator::new(&model, options)
            .within(Budget::new(1, uniform))
            .run(&batches)
            .unwrap();
        let record = report.scores.anytime.as_ref().unwrap();
        assert_eq!(report.scores.top(1), [HeadId::new(1, 2)], "{rank_by}");
        assert!(
            record.is_settled() && record.rounds == 1,
            "{rank_by}: {record:?}"
        );
        assert!(record.row_passes < uniform / 3, "{rank_by}: {record:?}");
    }
}

#[test]
fn every_score_is_that_of_the_first_sequences_which_the_head_was_replaced_in() {
    for rank_by in [RankBy::Z, RankBy::LowerBound, RankBy::Score] {
        let report = run(rank_by);
        let record = report.scores.anytime.clone().unwrap();
        assert!(
            record.rounds > 1 && record.row_passes <= record.budget,
            "{record:?}"
        );
        let (model, batches) = (decoder(), batches(&[(6, 40), (4, 60)]));
        let samples = |scored: &pear_locate::HeadScore| scored.samples.unwrap();
        let most = report.scores.heads().iter().map(samples).max().unwrap();
        let least = report.scores.heads().iter().map(samples).min().unwrap();
        assert!(least < most, "all heads were replaced {most} times");
        for scored in report.scores.heads() {
            let firsts: Vec<ProxyBatch> = batches
                .iter()
                .zip(&report.scores.by_length)
                .map(|(batch, length)| batch.slice(0..length.head_samples(scored.head)))
                .collect();
            assert_eq!(
                firsts.iter().map(ProxyBatch::len).sum::<usize>(),
                samples(scored)
            );
            let alone = locate(&model, &firsts, &options(rank_by)).unwrap().scores;
            let mut same = alone
                .heads()
                .iter()
                .filter(|other| other.head == scored.head);
            let same = same.next().unwrap();
            assert!(
                (same.score - scored.score).abs() < 1e-4,
                "{same:?}, {scored:?}"
            );
            let errors = [same, scored].map(|scored| scored.standard_error.unwrap());
            assert!(
                (errors[0] / errors[1] - 1.0).abs() < 1e-3,
                "{same:?}, {scored:?}"
            );
        }
    }
}

#[test]
fn the_heads_that_are_replaced_most_are_those_at_the_boundary() {
    let report = run(RankBy::Score);
    let ranked = report.scores.ranked();
    let samples = |rank: usize| ranked[rank].samples.unwrap();
    assert!(samples(3).max(samples(4)) > samples(17), "{ranked:?}");
}

#[test]
fn a_run_cancelled_after_any_round_or_within_it_ends_as_if_it_had_not_been() {
    let (model, batches) = (decoder(), batches(&[(6, 40), (4, 60)]));
    for rank_by in [RankBy::Z, RankBy::Score] {
        let options = options(rank_by);
        let locator =
            Locator::new(&model, options.clone()).within(half(&model, &options, &batches));
        let (mut whole, mut events) = (Vec::new(), 0);
        let finished = locator.run_with(&batches, |event| {
            events += 1;
            if let Event::RoundFinished(rounds) = event {
                whole.push(rounds.clone());
            }
            Ok::<_, Error>(ControlFlow::Continue(()))
        });
        let finished = finished.unwrap().finished().unwrap();
        for stop in 1..events {
            let mut left = stop;
            let cancelled = locator.run_with(&batches, |_| {
                left -= 1;
                Ok::<_, Error>(match left {
                    0 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                })
            });
            let Outcome::Cancelled(rounds) = cancelled.unwrap() else {
                panic!("not cancelled by event {stop} of {events}");
            };
            let file = serde_json::to_string(&rounds).unwrap();
            let read: Rounds = serde_json::from_str(&file).unwrap();
            assert_eq!(read, rounds);
            if let Some(index) = rounds.finished().checked_sub(1) {
                assert_eq!(rounds, whole[index]);
            }
            let resumed = locator.clone().with_finished(read).run(&batches).unwrap();
            assert_eq!(resumed, finished, "event {stop} of {events}");
        }
    }
}

#[test]
fn progress_rises_and_stays_within_the_budget() {
    let (model, options, batches) = (decoder(), options(RankBy::Z), batches(&[(6, 40), (4, 60)]));
    let budget = half(&model, &options, &batches);
    let mut done = vec![0];
    let locator = Locator::new(&model, options).within(budget);
    let outcome = locator.run_with(&batches, |event| {
        match event {
            Event::Layer(progress) => {
                assert_eq!(progress.total, budget.row_passes);
                done.push(progress.done);
            }
            Event::RoundFinished(rounds) => assert_eq!(rounds.row_passes(), done[done.len() - 1]),
            _ => unreachable!("lengths are not finished one by one"),
        }
        Ok::<_, Error>(ControlFlow::Continue(()))
    });
    let record = outcome.unwrap().finished().unwrap().scores.anytime.unwrap();
    assert!(done.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(done.last(), Some(&record.row_passes));
    assert!(record.row_passes <= budget.row_passes);
}

#[test]
fn copies_of_the_model_share_the_sequences() {
    let (model, options, batches) = (decoder(), options(RankBy::Z), batches(&[(6, 40), (4, 60)]));
    let budget = half(&model, &options, &batches);
    let shared = Locator::new(&model, options)
        .with_copies([&model, &model])
        .within(budget)
        .run(&batches)
        .unwrap();
    let (alone, shared) = (run(RankBy::Z).scores, shared.scores);
    assert_eq!(alone.top(4), shared.top(4));
    for (a, b) in alone.heads().iter().zip(shared.heads()) {
        assert!((a.score - b.score).abs() < 1e-4 && a.samples == b.samples);
    }
}

#[test]
fn a_budget_that_is_too_small_is_refused_and_the_smallest_leaves_heads_undecided() {
    let (model, options, batches) = (decoder(), options(RankBy::Z), batches(&[(6, 40), (4, 60)]));
    let within = |row_passes| {
        Locator::new(&model, options.clone())
            .within(Budget::new(4, row_passes))
            .run(&batches)
    };
    // Two sequences of 12 and 8 tokens through 3 layers, and 6 heads of each layer through the layers from there on.
    let needed = 2 * ((12 + 8) * 3 + 2 * 6 * (3 + 2 + 1));
    let error = within(needed - 1).unwrap_err();
    assert!(
        matches!(error, Error::BudgetTooSmall { needed: found, .. } if found == needed),
        "{error}"
    );
    let report = within(needed).unwrap();
    let record = report.scores.anytime.unwrap();
    assert!(
        !record.is_settled() && record.row_passes == needed,
        "{record:?}"
    );
    assert_eq!(report.scores.by_length[0].samples, 2);
}

#[test]
fn what_a_budget_cannot_do_is_refused() {
    let model = decoder();
    let batches = batches(&[(6, 4), (4, 4)]);
    let refused = |options: LocateOptions, budget: Budget, batches: &[ProxyBatch]| {
        let locator = Locator::new(&model, options).within(budget);
        locator.run(batches).unwrap_err().to_string()
    };
    let (options, budget) = (options(RankBy::Z), Budget::new(4, 100_000));
    for top_k in [0, 18] {
        let message = refused(options.clone(), Budget { top_k, ..budget }, &batches);
        assert!(message.contains("expected 1 to 17"), "{message}");
    }
    let confidence = 1.0;
    let message = refused(
        options.clone(),
        Budget {
            confidence,
            ..budget
        },
        &batches,
    );
    assert!(message.contains("confidence of 1"), "{message}");
    let single = [batches[0].clone(), batches[1].slice(0..1)];
    let message = refused(options.clone(), budget, &single);
    assert!(message.starts_with("n = 4"), "{message}");
    let message = refused(LocateOptions::as_published(), budget, &batches);
    assert!(message.contains("batch means"), "{message}");
}

#[test]
fn rounds_of_other_sequences_or_heads_are_not_taken() {
    let (model, options) = (decoder(), options(RankBy::Z));
    let all = batches(&[(6, 40), (4, 60)]);
    let locator = Locator::new(&model, options.clone()).within(half(&model, &options, &all));
    let outcome = locator.run_with(&all, |event| {
        Ok::<_, Error>(match event {
            Event::RoundFinished(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    });
    let Outcome::Cancelled(rounds) = outcome.unwrap() else {
        panic!("not cancelled");
    };
    let resumed = |model: &TestDecoder, metric: Metric, batches: &[ProxyBatch]| {
        let options = LocateOptions {
            metric,
            ..options.clone()
        };
        let budget = half(model, &options, batches);
        let locator = Locator::new(model, options).within(budget);
        locator.with_finished(rounds.clone()).run(batches)
    };
    assert!(resumed(&model, Metric::LogitDiff, &all).is_ok());
    let larger = TestDecoder::new(4, plain(), false);
    for refused in [
        resumed(&model, Metric::LogitDiff, &all[..1]),
        resumed(&model, Metric::LogitDiff, &batches(&[(6, 40), (5, 60)])),
        resumed(&model, Metric::LogProbDiff, &all),
        resumed(&larger, Metric::LogitDiff, &all),
    ] {
        assert!(
            matches!(refused, Err(Error::Unresumable { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn scores_found_within_a_budget_survive_a_file_and_are_ranked_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores.json");
    let scores = run(RankBy::Z).scores;
    scores.write(&path).unwrap();
    let read = Scores::read(&path).unwrap();
    assert_eq!(read, scores);
    assert_eq!(read.ranked(), scores.ranked());
    let merged = Scores::merge(&[&path]).unwrap_err().to_string();
    assert!(merged.contains("`anytime`"), "{merged}");
}

#[test]
fn layers_that_are_left_out_are_left_out_of_the_ranking() {
    let (model, batches) = (decoder(), batches(&[(6, 40), (4, 60)]));
    let options = LocateOptions {
        layers: Some("1-2".parse().unwrap()),
        ..options(RankBy::Score)
    };
    let budget = half(&model, &options, &batches);
    let report = Locator::new(&model, options.clone())
        .within(budget)
        .run(&batches)
        .unwrap();
    assert_eq!(report.scores.heads().len(), 12);
    let heads: Vec<HeadId> = report
        .scores
        .heads()
        .iter()
        .map(|scored| scored.head)
        .collect();
    let first = patched_logits_of(&model, &heads, &batches[0].slice(0..2), &options).unwrap();
    assert_eq!(
        first.base_logits,
        report.by_length[0].logits.base_logits[..2]
    );
}
