//! Several devices give what one does.

mod common;

use std::ops::ControlFlow;

use burn::module::Module;
use common::{TestDecoder, VOCAB, models, plain};
use pear_core::{DecoderModel, ProxyTask};
use pear_locate::{
    Ablation, Error, Event, LocateOptions, Locator, Method, Metric, Progress, locate, proxy_batches,
};

#[test]
fn sequences_split_over_copies_give_the_scores_of_one_device() {
    let batches =
        proxy_batches(&ProxyTask::new(VOCAB, &[0], 5).unwrap(), &[(5, 5), (6, 2)]).unwrap();
    for (name, model) in models().into_iter().take(3) {
        for (ablation, metric, method) in [
            (Ablation::BatchMean, Metric::LogitDiff, Method::Exact),
            (Ablation::BatchMean, Metric::LogitDiff, Method::Attribution),
            (Ablation::SequenceMean, Metric::LogProbDiff, Method::Exact),
        ] {
            let options = LocateOptions {
                ablation,
                metric,
                method,
                ..LocateOptions::default()
            };
            let one = locate(&model, &batches, &options).unwrap();
            let copies = [model.clone(), model.clone()];
            let mut seen: Vec<Progress> = Vec::new();
            // More devices than sequences of the second length.
            let three = Locator::new(&model, options.clone())
                .with_copies(&copies)
                .run_with(&batches, |event| {
                    if let Event::Layer(progress) = event {
                        seen.push(progress);
                    }
                    Ok::<_, Error>(ControlFlow::Continue(()))
                })
                .unwrap();
            let three = three.finished().unwrap();
            assert_eq!(seen.last().unwrap().done, seen[0].total);
            for (a, b) in one.by_length.iter().zip(&three.by_length) {
                let (a, b) = (&a.logits, &b.logits);
                assert_eq!((a.n, a.samples()), (b.n, b.samples()));
                assert!(
                    (a.accuracy - b.accuracy).abs() < 1e-12
                        && (a.cross_entropy - b.cross_entropy).abs() < 1e-4,
                    "{name}"
                );
                // Sequence by sequence: the order is kept.
                let close = |a: &[f32], b: &[f32]| {
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3)
                };
                assert!(close(&a.base_logits, &b.base_logits), "{name}");
                for (a, b) in a
                    .patched_logits
                    .iter()
                    .flatten()
                    .zip(b.patched_logits.iter().flatten())
                {
                    assert!(close(a, b), "{name}, {options:?}: {a:?}, {b:?}");
                }
            }
            for (a, b) in one
                .scores
                .grid()
                .iter()
                .flatten()
                .zip(three.scores.grid().iter().flatten())
            {
                assert!((a - b).abs() < 1e-3, "{name}, {options:?}");
            }
        }
    }
}

#[test]
fn models_that_are_not_copies_are_refused() {
    let batches = proxy_batches(&ProxyTask::new(VOCAB, &[0], 5).unwrap(), &[(5, 2)]).unwrap();
    let run = |model: &TestDecoder, copy: &TestDecoder| {
        Locator::new(model, LocateOptions::default())
            .with_copies([copy])
            .run(&batches)
            .unwrap_err()
    };
    let (two, three) = (
        TestDecoder::new(2, plain(), false),
        TestDecoder::new(3, plain(), false),
    );
    assert_ne!(two.shape(), three.shape());
    assert!(matches!(run(&two, &three), Error::Models));
    assert!(matches!(run(&two, &two.clone().train()), Error::Autodiff));
}
