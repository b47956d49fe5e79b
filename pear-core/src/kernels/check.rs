//! Checks of shapes and types, the same whether an operation runs as a kernel or composed.

use burn::tensor::DType;

/// Panics unless an argument has the shape that another argument requires of it.
#[track_caller]
pub(super) fn shape(
    operation: &str,
    (name, dims): (&str, &[usize]),
    expected: &[usize],
    (other, other_dims): (&str, &[usize]),
) {
    assert!(
        dims == expected,
        "{operation}: `{name}` must have shape {expected:?} where `{other}` has shape {other_dims:?}, but has {dims:?}"
    );
}

/// Panics unless all arguments have the same type. Quantised tensors have none that could differ.
#[track_caller]
pub(super) fn same_dtype(operation: &str, arguments: &[(&str, DType)]) {
    let mut floats = arguments
        .iter()
        .filter(|(_, dtype)| !matches!(dtype, DType::QFloat(_)));
    let Some((first, expected)) = floats.next() else {
        return;
    };
    for (name, dtype) in floats {
        assert!(
            dtype == expected,
            "{operation}: `{name}` must have the type of `{first}`, {expected:?}, but has {dtype:?}"
        );
    }
}
