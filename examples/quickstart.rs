use burn::module::Module;
use burn::prelude::*;
use pear_core::*;
use pear_examples::pretrain::{Pretraining, tiny_llama};
use pear_locate::{LocateOptions, locate, proxy_batches};
use pear_train::*;
fn env<T: std::str::FromStr>(n: &str, d: T) -> T {
    std::env::var(n).ok().and_then(|x| x.parse().ok()).unwrap_or(d)
}
fn look(model: &pear_models::Decoder) -> anyhow::Result<()> {
    let task = ProxyTask::new(488, &[0, 1, 2], 7)?;
    let report = locate(model, &proxy_batches(&task, &[(10, 100), (25, 40), (50, 20)])?, &LocateOptions::default(), |_| {})?;
    for h in report.scores.heads().iter().take(9) {
        print!("{} {:.4}, ", h.head, h.score);
    }
    println!();
    let random: Vec<HeadId> = (0..5).map(|i| HeadId::new((i * 7 + 1) % 4, (i * 5 + 3) % 8)).collect();
    let n = env("N", 50);
    for heads in [report.scores.top(2), report.scores.top(5), random] {
        let mut tr = Trainer::new(
            model,
            &heads,
            TrainOptions { steps: 30, length: n, learning_rate: 2e-2, batch_size: 12, ..Default::default() },
        )?;
        let t = std::time::Instant::now();
        tr.run(&Sequences::Drawn(task.clone()), |_, _| Ok(std::ops::ControlFlow::Continue(())))?;
        print!("  {:.1?} ", t.elapsed());
        for (h, v) in tr.coefficients().heads().iter().zip(tr.coefficients().values()) {
            print!("{h} {v:.2} ");
        }
        for n in [10, 25, 50] {
            let b = task.batch(n, 1000..1060)?;
            let (a, l) = (evaluate(model, &b, None)?, evaluate(model, &b, Some(tr.coefficients()))?);
            print!("| n {n} acc {:.3}>{:.3} ce {:.3}>{:.3}  ", a.accuracy, l.accuracy, a.cross_entropy, l.cross_entropy);
        }
        println!();
    }
    Ok(())
}
fn main() -> anyhow::Result<()> {
    let device = Device::flex();
    let config = tiny_llama();
    let t = std::time::Instant::now();
    Pretraining {
        steps: env("STEPS", 200),
        seed: env("SEED", 0),
        noise: env("NOISE", 0.0),
        noisy_steps: env("NS", 0),
        rows: env("ROWS", 16),
        row_len: env("LEN", 64),
        span: 3..=env("SPAN", 30),
        learning_rate: env("LR", 3e-3),
        warmup_steps: env("WARM", 50),
    }
    .run(&config, &device, |s, l, m| {
        if [100, 125, 150, 175, 200].contains(&s) {
            println!("{s} {l:.3} {:?}", t.elapsed());
            look(&m.clone().valid()).unwrap();
        }
    })?;
    Ok(())
}
