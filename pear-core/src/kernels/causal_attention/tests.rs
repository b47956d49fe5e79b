use super::super::testing::{assert_rejected, distance, panic_message, random, seed};
use super::*;
use crate::kernels::tiles::{Instructions, with_portable};

#[test]
fn attention_over_a_cache_is_that_of_the_composed_operations() {
    seed(8);
    let cache = || random([2, 2, 64, 16]).narrow(2, 0, 37);
    let (key, value) = (cache(), cache());
    for queries in [1, 5] {
        let query = random([2, queries, 6, 16]).swap_dims(1, 2);
        for (bias, soft_cap, window, scale) in [
            (None, None, None, None),
            (Some([1, 6, queries, 37]), None, Some(7), None),
            (Some([1, 6, 1, 37]), Some(3.0), None, Some(0.4)),
            (Some([2, 1, 1, 37]), None, Some(100), None),
        ] {
            let config = AttentionScoreConfig {
                scale,
                soft_cap,
                window,
            };
            let bias = bias.map(random::<4>);
            let (fast, composed) =
                fast_and_composed(query.clone(), key.clone(), value.clone(), bias, config);
            assert!(distance(fast, composed) < 2e-6, "{queries} {config:?}");
        }
    }
    let reversed = key.clone().flip([2]);
    let query = random([2, 6, 1, 16]);
    let (fast, composed) = fast_and_composed(
        query.clone(),
        reversed,
        value.clone(),
        None,
        Default::default(),
    );
    assert!(distance(fast, composed) < 2e-6);
    let [query, key, value] = [query, key, value].map(|x| x.cast(DType::BF16));
    let (fast, composed) = fast_and_composed(query, key, value, None, Default::default());
    assert_eq!(fast.dtype(), DType::BF16);
    assert!(distance(fast.cast(DType::F32), composed.cast(DType::F32)) < 0.03);
}

#[test]
fn attention_of_many_queries_is_that_of_the_composed_operations() {
    seed(9);
    // Half precision by the processor's own instructions, where there are some, or widened; and in tiles on every processor.
    for (dtype, tolerance, in_tiles) in [
        (DType::F32, 3e-6, false),
        (DType::BF16, 0.01, false),
        (DType::BF16, 0.01, true),
    ] {
        // Two key/value heads: of 1, 3 and 11 query heads each.
        let mut shapes = vec![
            (9, 9, 16, 6),
            (40, 100, 48, 6),
            (100, 100, 64, 6),
            (65, 70, 5, 22),
            (130, 130, 8, 2),
        ];
        if in_tiles || dtype == DType::BF16 && Instructions::best().is_some() {
            // So many keys that threads divide their tiles.
            shapes.push((150, 2300, 16, 6));
        }
        for (queries, keys, head_dim, heads) in shapes {
            let [query, key, value] = [
                random([2, queries, heads, head_dim]).swap_dims(1, 2),
                random([2, 2, keys + 3, head_dim]).narrow(2, 0, keys),
                random([2, keys, 2, head_dim]).swap_dims(1, 2),
            ]
            .map(|x| x.cast(dtype));
            for (bias, soft_cap, window, scale) in [
                (None, None, None, None),
                (Some([1, heads, queries, keys]), None, Some(7), None),
                (Some([1, heads, 1, keys]), Some(3.0), None, Some(0.4)),
                (Some([2, 1, 1, keys]), None, Some(40), None),
            ] {
                let config = AttentionScoreConfig {
                    scale,
                    soft_cap,
                    window,
                };
                let bias = bias.map(random::<4>);
                let (query, key, value) = (query.clone(), key.clone(), value.clone());
                let both = || fast_and_composed(query, key, value, bias, config);
                let (fast, composed) = if in_tiles {
                    with_portable(both)
                } else {
                    both()
                };
                assert_eq!(fast.dtype(), dtype);
                let error = distance(fast.cast(DType::F32), composed.cast(DType::F32));
                assert!(
                    error < tolerance,
                    "{dtype:?} {queries} {keys} {head_dim} {heads} {config:?}: {error}"
                );
            }
        }
    }
}

fn fast_and_composed(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    bias: Option<Tensor<4>>,
    config: AttentionScoreConfig,
) -> (Tensor<4>, Tensor<4>) {
    assert!(kernel::is_supported(&query, &key, &value, bias.as_ref()));
    let composed = causal_attention_composed(
        query.clone(),
        key.clone(),
        value.clone(),
        bias.clone(),
        config,
    );
    (causal_attention(query, key, value, bias, config), composed)
}

#[test]
fn a_bias_that_is_one_number_for_all_keys_is_added() {
    let [query, key, value] = [
        random([1, 4, 2, 8]),
        random([1, 2, 5, 8]),
        random([1, 2, 5, 8]),
    ];
    let config = AttentionScoreConfig::default();
    let plain = causal_attention(query.clone(), key.clone(), value.clone(), None, config);
    let shifted = causal_attention(query, key, value, Some(random([1, 4, 2, 1])), config);
    assert!(distance(shifted, plain) < 1e-5);
}

#[test]
fn a_bias_on_an_autodiff_device_is_added_and_has_a_gradient() {
    let [query, key] = [random([1, 4, 2, 8]), random([1, 2, 5, 8])];
    let attend = |bias| {
        causal_attention(
            query.clone(),
            key.clone(),
            key.clone(),
            Some(bias),
            Default::default(),
        )
    };
    let bias = random([1, 4, 2, 5]);
    let tracked = bias.clone().autodiff().require_grad();
    let output = attend(tracked.clone());
    assert!(distance(output.clone().inner(), attend(bias)) < 2e-6);
    assert!(tracked.grad(&output.sum().backward()).is_some());
}

#[test]
fn arguments_that_do_not_fit_are_rejected() {
    let q = [2, 6, 3, 8];
    for (key, expected) in [
        ([1, 2, 5, 8], [2, 2, 5, 8]),
        ([2, 2, 5, 7], [2, 2, 5, 8]),
        ([2, 2, 5, 16], [2, 2, 5, 8]),
    ] {
        let message = format!(
            "attend: `key` must have shape {expected:?} where `query` has shape {q:?}, but has {key:?}"
        );
        assert_rejected(&message, |new| {
            attend(new.ones(q), new.ones(key), new.ones(key))
        });
    }
    let k = [2, 2, 5, 8];
    for value in [
        [1, 2, 5, 8],
        [2, 1, 5, 8],
        [2, 2, 4, 8],
        [2, 2, 6, 8],
        [2, 2, 5, 4],
    ] {
        let message = format!(
            "attend: `value` must have shape {k:?} where `key` has shape {k:?}, but has {value:?}"
        );
        assert_rejected(&message, |new| {
            attend(new.ones(q), new.ones(k), new.ones(value))
        });
    }
    for heads in [0, 4, 12] {
        let key = [2, heads, 5, 8];
        let message = format!(
            "attend: the heads of `key`, of shape {key:?}, do not divide those of `query`, of shape {q:?}"
        );
        assert_rejected(&message, |new| {
            attend(new.ones(q), new.ones(key), new.ones(key))
        });
    }
    for keys in [1, 2] {
        let key = [2, 2, keys, 8];
        let message = format!(
            "attend: `query` of shape {q:?} has more positions than `key` of shape {key:?}"
        );
        assert_rejected(&message, |new| {
            attend(new.ones(q), new.ones(key), new.ones(key))
        });
    }
    let no_window = AttentionScoreConfig {
        window: Some(0),
        ..Default::default()
    };
    assert_rejected("attend: a window must be at least 1", |new| {
        causal_attention(new.ones(q), new.ones(k), new.ones(k), None, no_window)
    });
}

fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    causal_attention(query, key, value, None, AttentionScoreConfig::default())
}

#[test]
fn a_bias_that_does_not_broadcast_is_rejected() {
    let with_bias = |bias: Tensor<4>| {
        let [query, key] = [random([2, 6, 3, 8]), random([2, 2, 5, 8])];
        causal_attention(query, key.clone(), key, Some(bias), Default::default())
    };
    for bias in [
        [3, 6, 3, 5],
        [2, 2, 3, 5],
        [2, 6, 2, 5],
        [2, 6, 3, 4],
        [2, 6, 3, 6],
    ] {
        let message = panic_message(|| with_bias(random(bias)));
        assert_eq!(
            message,
            format!(
                "attend: a score bias of shape {bias:?} does not broadcast to scores of shape [2, 6, 3, 5]"
            )
        );
    }
    let message = panic_message(|| with_bias(random([1, 6, 1, 5]).cast(DType::BF16)));
    assert_eq!(message, "attend: a score bias must be F32, but is BF16");
}

#[test]
fn a_key_of_another_type_is_rejected() {
    let [query, key] = [random([2, 6, 3, 8]), random([2, 2, 5, 8])];
    let message = panic_message(|| attend(query, key.clone().cast(DType::BF16), key));
    assert_eq!(
        message,
        "attend: `key` must have the type of `query`, F32, but has BF16"
    );
}
