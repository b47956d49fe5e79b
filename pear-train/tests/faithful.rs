//! Learning to prefer the context: losses and gradients of items, and what training on them comes to.

mod common;

use std::ops::ControlFlow;

use common::{HEAD_DIM, Small};
use pear_core::forward::{self, token_tensor};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{DecoderModel, HeadCoefficients, HeadId, NoEdit};
use pear_train::faithful::{
    FaithfulOptions, FaithfulTrainer, FrontPoint, Goal, Item, ItemGroup, Stage, item_losses,
    item_losses_and_gradients, log_probs,
};
use pear_train::{Error, Fisher, PlainText, fisher, text_divergence};

const VOCAB: u32 = 37;
const MARGIN: f64 = 1.0;

fn model() -> Small {
    let rotary = PositionEmbeddingConfig::Rotary(RotaryConfig::new(HEAD_DIM, 10_000.0));
    Small::new(2, 4, 2, VOCAB as usize, rotary)
}

fn sequence(index: u32, length: u32) -> Vec<u32> {
    (0..length)
        .map(|place| (index * 11 + place * place * 7 + place * 3) % VOCAB)
        .collect()
}

fn text() -> PlainText {
    PlainText::new((0..12).map(|i| sequence(i, 20)).collect(), 0).unwrap()
}

fn heads(model: &Small) -> Vec<HeadId> {
    model.shape().heads().collect()
}

fn estimate(model: &Small, heads: &[HeadId]) -> Fisher {
    fisher(model, heads, &text(), 20, 1, 16).unwrap()
}

fn log_softmax_after(model: &Small, prompt: &[u32]) -> Vec<f64> {
    let tokens = token_tensor(&[prompt], &model.device());
    let logits = forward::logits(model, tokens, &mut NoEdit).unwrap();
    let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
    let last = &logits[logits.len() - VOCAB as usize..];
    let total = last.iter().map(|x| x.exp()).sum::<f64>().ln();
    last.iter().map(|x| x - total).collect()
}

/// The tokens at these ranks of the unmodified model's prediction.
fn ranked(model: &Small, prompt: &[u32], ranks: [usize; 2]) -> [u32; 2] {
    let found = log_softmax_after(model, prompt);
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|a, b| found[*b].total_cmp(&found[*a]));
    ranks.map(|rank| order[rank] as u32)
}

/// The second best token is to win over the best.
fn preferences(model: &Small, count: u32) -> Vec<Item> {
    (0..count)
        .map(|i| {
            let prompt = sequence(i + 50, 4 + i % 9);
            let [best, second] = ranked(model, &prompt, [0, 1]);
            Item::prefer(prompt, second, best)
        })
        .collect()
}

fn kept(model: &Small, count: u32) -> Vec<Item> {
    (0..count)
        .map(|i| {
            let prompt = sequence(i + 90, 3 + i % 11);
            let [best, _] = ranked(model, &prompt, [0, 1]);
            Item::keep(prompt, best)
        })
        .collect()
}

fn moved(model: &Small, shift: impl Fn(usize) -> f32) -> HeadCoefficients {
    let values: Vec<(HeadId, f32)> = (0..)
        .zip(heads(model))
        .map(|(i, h)| (h, shift(i)))
        .collect();
    HeadCoefficients::new(&values, &model.shape(), &model.device()).unwrap()
}

fn mixed(model: &Small) -> Vec<Item> {
    [preferences(model, 7), kept(model, 6)].concat()
}

fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len() as f64;
    numbers.sum::<f64>() / count
}

#[test]
fn losses_are_their_definitions() {
    let model = model();
    let items = mixed(&model);
    let references = log_probs(&model, &items, None, 1000).unwrap();
    for (item, found) in items.iter().zip(&references) {
        let expected = log_softmax_after(&model, &item.prompt)[item.token() as usize];
        assert!((found - expected).abs() < 1e-4, "{found}, {expected}");
    }
    // As if tokens had been likelier by half a nat.
    let higher: Vec<f64> = references.iter().map(|x| x + 0.5).collect();
    let losses = item_losses(&model, &items, &higher, None, MARGIN, 1000).unwrap();
    for (item, loss) in items.iter().zip(&losses) {
        match item.goal {
            Goal::Prefer {
                preferred,
                rejected,
            } => {
                let log_probs = log_softmax_after(&model, &item.prompt);
                let difference = log_probs[preferred as usize] - log_probs[rejected as usize];
                assert!(difference < 0.0);
                assert!((loss.difference - difference).abs() < 1e-4);
                let expected = (1.0 + (MARGIN - difference).exp()).ln();
                assert!((loss.loss - expected).abs() < 1e-4);
            }
            _ => {
                assert!((loss.loss - 0.5).abs() < 1e-4);
                assert!((loss.difference + 0.5).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn every_gradient_agrees_with_a_central_difference() {
    let model = model();
    let items = mixed(&model);
    // High enough that every token to be kept has a loss, and none a kink nearby.
    let references = vec![0.0; items.len()];
    let at = |i: usize, step: f32| {
        let values = moved(&model, |j| {
            0.8 + 0.05 * j as f32 + if i == j { step } else { 0.0 }
        });
        let losses = item_losses(&model, &items, &references, Some(&values), MARGIN, 1000).unwrap();
        mean(losses.iter().map(|loss| loss.loss))
    };
    let values = moved(&model, |j| 0.8 + 0.05 * j as f32);
    let (losses, gradients) =
        item_losses_and_gradients(&model, &items, &references, &values, MARGIN, 1000).unwrap();
    assert!((mean(losses.iter().map(|loss| loss.loss)) - at(0, 0.0)).abs() < 1e-6);
    let largest = gradients.iter().fold(0f64, |max, g| max.max(g.abs()));
    assert!(largest > 0.02, "nothing matters: {largest}");
    for (i, gradient) in gradients.iter().enumerate() {
        let difference = (at(i, 4e-3) - at(i, -4e-3)) / 8e-3;
        assert!(
            (gradient - difference).abs() < 1e-4 + 5e-3 * largest,
            "{i}: {gradient} and {difference}"
        );
    }
}

#[test]
fn prompts_that_run_together_get_what_they_get_alone() {
    let model = model();
    let items = mixed(&model);
    let references = log_probs(&model, &items, None, 1).unwrap();
    let values = moved(&model, |j| 0.7 + 0.1 * j as f32);
    let run = |at_once| {
        item_losses_and_gradients(&model, &items, &references, &values, MARGIN, at_once).unwrap()
    };
    let (alone, alone_gradients) = run(1);
    for at_once in [24, 10_000] {
        model.seen();
        let (together, gradients) = run(at_once);
        let rows = model.seen().logits;
        assert!(rows.len() < items.len(), "{rows:?}");
        // Logits of last positions alone.
        assert_eq!(rows.iter().sum::<usize>(), items.len());
        for (a, b) in alone.iter().zip(&together) {
            assert!((a.loss - b.loss).abs() < 1e-5, "{a:?} and {b:?}");
        }
        for (a, b) in alone_gradients.iter().zip(&gradients) {
            assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
    }
}

fn options(stages: &[(f64, usize)]) -> FaithfulOptions {
    FaithfulOptions {
        stages: stages
            .iter()
            .map(|&(weight, n)| Stage::new(weight, n))
            .collect(),
        ..FaithfulOptions::default()
    }
}

fn trainer(
    model: &Small,
    groups: Vec<ItemGroup>,
    options: FaithfulOptions,
) -> FaithfulTrainer<&Small> {
    let fisher = estimate(model, &heads(model));
    FaithfulTrainer::new(model, groups, text(), &fisher, options).unwrap()
}

fn group(name: &str, items: Vec<Item>) -> ItemGroup {
    let count = items.len();
    ItemGroup::new(name, items, count).unwrap()
}

fn win_rate(model: &Small, items: &[Item], coefficients: Option<&HeadCoefficients>) -> f64 {
    let references = vec![0.0; items.len()];
    let losses = item_losses(model, items, &references, coefficients, MARGIN, 1000).unwrap();
    mean(
        losses
            .iter()
            .map(|x| f64::from(u8::from(x.difference > 0.0))),
    )
}

/// The total of what tokens have lost.
fn lost(model: &Small, items: &[Item], coefficients: &HeadCoefficients) -> f64 {
    let references = log_probs(model, items, None, 1000).unwrap();
    let losses = item_losses(model, items, &references, Some(coefficients), MARGIN, 1000).unwrap();
    mean(losses.iter().map(|x| x.loss))
}

#[test]
fn preferences_win_more_often_the_less_divergence_costs() {
    let model = model();
    let items = preferences(&model, 12);
    let stages = [(1000.0, 10), (10.0, 30), (0.5, 60)];
    let mut trainer = trainer(
        &model,
        vec![group("conflict", items.clone())],
        options(&stages),
    );
    let front = trainer.run().unwrap();
    assert_eq!(front.len(), 3);
    assert_eq!(win_rate(&model, &items, None), 0.0);
    let wins: Vec<f64> = front
        .iter()
        .map(|point| win_rate(&model, &items, Some(&point.coefficients)))
        .collect();
    assert!(wins[2] >= 0.3 && wins[2] >= wins[1], "{wins:?}");
    let kl: Vec<f64> = front.iter().map(|point| point.kl).collect();
    assert!(kl[0] < kl[1] && kl[1] < kl[2], "{kl:?}");
    // Near 1 at the highest price, and as far from it as the Fisher matrix says.
    let furthest = front[0]
        .coefficients
        .values()
        .iter()
        .fold(0f32, |m, x| m.max((x - 1.0).abs()));
    assert!(furthest < 0.05, "{furthest}");
    for point in &front[..2] {
        let ratio = point.kl / point.predicted_kl;
        assert!((0.5..2.0).contains(&ratio), "{ratio}");
        let measured = text_divergence(&model, &text(), &point.coefficients, 12).unwrap();
        assert!((measured - point.kl).abs() < 1e-7);
    }
}

#[test]
fn tokens_to_be_kept_lose_less_than_they_would() {
    let model = model();
    let (conflict, keep) = (preferences(&model, 12), kept(&model, 8));
    let run = |groups| {
        let mut trainer = trainer(&model, groups, options(&[(0.2, 60)]));
        trainer.run().unwrap().remove(0).coefficients
    };
    let without = run(vec![group("conflict", conflict.clone())]);
    let with = run(vec![
        group("conflict", conflict),
        group("known", keep.clone()).with_weight(4.0).unwrap(),
    ]);
    let (lost_without, lost_with) = (lost(&model, &keep, &without), lost(&model, &keep, &with));
    assert!(lost_without > 0.05, "{lost_without}");
    assert!(
        lost_with < 0.5 * lost_without,
        "{lost_with} of {lost_without}"
    );
}

fn values(front: &[FrontPoint]) -> Vec<Vec<f32>> {
    front
        .iter()
        .map(|point| point.coefficients.values())
        .collect()
}

#[test]
fn a_resumed_run_is_bit_for_bit_the_uninterrupted_one() {
    let model = model();
    let groups = || {
        vec![
            ItemGroup::new("conflict", preferences(&model, 9), 4).unwrap(),
            ItemGroup::new("known", kept(&model, 5), 3).unwrap(),
        ]
    };
    let options = FaithfulOptions {
        text_batch_size: 2,
        ..options(&[(20.0, 5), (5.0, 5)])
    };
    let mut whole = trainer(&model, groups(), options.clone());
    let mut reports = Vec::new();
    let front = whole
        .run_with(|_, step| {
            reports.push(step.clone());
            Ok::<_, Error>(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(reports.len(), 10);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    // Within a stage's mean, at the end of a stage, and before the first step.
    for interrupted in [4, 5, 0, 10] {
        let mut first = trainer(&model, groups(), options.clone());
        for _ in 0..interrupted {
            first.step().unwrap();
        }
        first.save(&path).unwrap();
        let mut second = trainer(&model, groups(), options.clone());
        second.restore(&path).unwrap();
        assert_eq!(second.steps_done(), interrupted);
        let mut rest = Vec::new();
        let resumed = second
            .run_with(|_, step| {
                rest.push(step.clone());
                Ok::<_, Error>(ControlFlow::Continue(()))
            })
            .unwrap();
        assert_eq!(rest, reports[interrupted..]);
        assert_eq!(values(&resumed), values(&front));
        assert_eq!(resumed[1].kl, front[1].kl);
    }
}

#[test]
fn the_state_of_another_run_is_refused() {
    let model = model();
    let groups = |count| vec![group("conflict", preferences(&model, count))];
    let few = options(&[(20.0, 2)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    trainer(&model, groups(4), few.clone()).save(&path).unwrap();
    let refused =
        |mut other: FaithfulTrainer<&Small>| other.restore(&path).unwrap_err().to_string();
    let named = refused(trainer(&model, groups(5), few.clone()));
    assert!(named.contains("other items"), "{named}");
    let more = FaithfulOptions {
        margin: 2.0,
        ..few.clone()
    };
    let named = refused(trainer(&model, groups(4), more));
    assert!(named.contains("`margin` was 1.0 and is 2.0"), "{named}");
    let fisher = estimate(&model, &[HeadId::new(1, 2)]);
    let other = FaithfulTrainer::new(&model, groups(4), text(), &fisher, few.clone()).unwrap();
    let named = refused(other);
    assert!(named.contains("other heads"), "{named}");
    std::fs::write(&path, "{}").unwrap();
    assert!(!refused(trainer(&model, groups(4), few)).is_empty());
}

#[test]
fn some_heads_in_any_order_are_learned_and_a_run_can_be_ended() {
    let model = model();
    let some = [HeadId::new(1, 3), HeadId::new(0, 1), HeadId::new(1, 0)];
    let fisher = estimate(&model, &some);
    let groups = vec![group("conflict", preferences(&model, 6))];
    let options = options(&[(5.0, 20)]);
    let mut trainer = FaithfulTrainer::new(&model, groups, text(), &fisher, options).unwrap();
    let front = trainer
        .run_with(|trainer, step| {
            assert_eq!(trainer.steps_done(), step.step + 1);
            assert!(step.objective().is_finite());
            Ok::<_, Error>(if step.step == 3 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
        .unwrap();
    assert!(front.is_empty());
    assert_eq!(trainer.steps_done(), 4);
    let front = trainer.run().unwrap();
    let learned = &front[0].coefficients;
    assert_eq!(learned.heads(), [some[1], some[2], some[0]]);
    assert!(learned.values().iter().all(|&x| x != 1.0));
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let model = model();
    let item = || Item::prefer(vec![1, 2], 3, 4);
    for (group, named) in [
        (ItemGroup::new("a", vec![], 1), "`a`: no items"),
        (ItemGroup::new("a", vec![item()], 0), "0 items a step"),
        (
            ItemGroup::new("a", vec![item(), Item::keep(vec![], 1)], 1),
            "item 1 has an empty prompt",
        ),
        (
            ItemGroup::new("a", vec![Item::prefer(vec![1], 3, 3)], 1),
            "to itself",
        ),
        (
            ItemGroup::new("a", vec![item()], 1)
                .unwrap()
                .with_weight(-1.0),
            "weight -1",
        ),
    ] {
        let error = group.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let fisher = estimate(&model, &heads(&model));
    let new = |items: Vec<Item>, options| {
        let groups = vec![ItemGroup::new("a", items, 1).unwrap()];
        FaithfulTrainer::new(&model, groups, text(), &fisher, options).map(|_| ())
    };
    let unknown = new(vec![Item::keep(vec![1], VOCAB)], FaithfulOptions::default());
    assert!(matches!(unknown, Err(Error::Core(_))), "{unknown:?}");
    for stages in [&[][..], &[(0.0, 1)], &[(1.0, 0)]] {
        assert!(matches!(
            new(vec![item()], options(stages)),
            Err(Error::Option { .. })
        ));
    }
    let none = FaithfulTrainer::new(&model, vec![], text(), &fisher, FaithfulOptions::default());
    assert!(matches!(none, Err(Error::Items { .. })));
}

#[test]
fn items_are_read_from_json() {
    let lines = [
        r#"{"prompt": [1, 2], "preferred": 3, "rejected": 4}"#,
        r#"{"prompt": [5], "keep": 6}"#,
    ];
    let items = lines.map(|line| serde_json::from_str::<Item>(line).unwrap());
    assert_eq!(
        items,
        [Item::prefer(vec![1, 2], 3, 4), Item::keep(vec![5], 6)]
    );
}
