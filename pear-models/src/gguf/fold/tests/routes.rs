//! Which route each type takes, and its error.

use super::*;
use crate::fold_plan::FoldRoute;

#[test]
fn heads_within_superblocks_take_the_route_of_each_type_with_its_error() {
    use FoldRoute::*;
    use GgmlType::*;
    let mut random = Random(1);
    for (dtype, route, folded_dtype, bound) in [
        (F32, Values, F32, 1e-7),
        (F16, Values, F16, 3e-4),
        (BF16, Values, BF16, 2e-3),
        (Q4_0, Scales, Q4_0, 3e-4),
        (Q5_0, Scales, Q5_0, 3e-4),
        (Q8_0, Scales, Q8_0, 3e-4),
        (IQ4_NL, Scales, IQ4_NL, 3e-4),
        (Q4_1, Scales, Q4_1, 3e-4),
        (Q5_1, Scales, Q5_1, 3e-4),
        (Q4_K, Codes, Q4_1, 8e-4),
        (Q5_K, Codes, Q5_1, 8e-4),
        (IQ4_XS, Codes, IQ4_NL, 3e-4),
        (Q3_K, Codes, Q8_0, 3e-4),
        (IQ1_S, Codes, Q8_0, 3e-4),
        (IQ2_XXS, Codes, Q8_0, 3e-4),
        (IQ3_XXS, Codes, Q8_0, 3e-4),
        (IQ3_S, Codes, Q8_0, 3e-4),
        (MXFP4, Codes, Q8_0, 3e-4),
        (TQ1_0, Codes, Q8_0, 3e-4),
        (TQ2_0, Codes, Q8_0, 3e-4),
        (Q1_0, Codes, Q8_0, 3e-4),
        (Q2_K, Unquantized, F16, 3e-4),
        (Q6_K, Unquantized, F16, 3e-4),
        (IQ1_M, Unquantized, F16, 3e-4),
        (IQ2_XS, Unquantized, F16, 3e-4),
        (IQ2_S, Unquantized, F16, 3e-4),
        (NVFP4, Unquantized, F16, 3e-4),
        (Q8_K, Unquantized, F16, 3e-4),
        (F64, Unquantized, F16, 3e-4),
    ] {
        let data = tensor(dtype, 0.02, &mut random);
        let folded = fold(dtype, &data, &heads_of_64());
        folded.check(&heads_of_64());
        let summary = &folded.summary;
        assert_eq!(
            (summary.route, summary.folded_dtype.as_str()),
            (route, folded_dtype.name()),
            "{dtype}"
        );
        assert!(summary.relative_error < bound, "{dtype}: {summary:?}");
        assert_eq!(summary.num_bytes, data.len() as u64);
        let (_, target) = folded.open();
        assert_eq!(
            summary.folded_num_bytes,
            target.tensors()[1].range.len() as u64
        );
        assert_eq!((summary.layer, summary.heads.len()), (0, 3));
    }
}

#[test]
fn superblocks_of_one_coefficient_keep_codes_and_type() {
    use GgmlType::*;
    let mut random = Random(2);
    let heads = [columns(0, 0..128, 0.62), columns(1, 128..256, 0.62)];
    for dtype in [
        Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ1_S, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_XS, TQ1_0,
        TQ2_0, Q1_0,
    ] {
        let data = tensor(dtype, 0.02, &mut random);
        let folded = fold(dtype, &data, &heads);
        folded.check(&heads);
        let summary = &folded.summary;
        assert_eq!(
            (summary.route, &summary.folded_dtype),
            (FoldRoute::Scales, &summary.dtype)
        );
        assert!(summary.relative_error < 8e-4, "{dtype}: {summary:?}");
    }
}

#[test]
fn heads_that_share_blocks_of_32_are_stored_unquantised() {
    let mut random = Random(3);
    let heads = [columns(1, 80..160, 0.62)];
    for dtype in [
        GgmlType::Q4_0,
        GgmlType::Q4_K,
        GgmlType::Q8_0,
        GgmlType::MXFP4,
    ] {
        let folded = fold(dtype, &tensor(dtype, 0.02, &mut random), &heads);
        folded.check(&heads);
        assert_eq!(folded.summary.folded_dtype, "F16");
        assert!(folded.summary.relative_error < 3e-4);
    }
}

#[test]
fn scales_that_would_be_subnormal_or_too_large_take_another_route() {
    let mut random = Random(4);
    // Half precision has steps of 6e-8 below 6e-5, and ends at 65504.
    for (dtype, scale, columns_of_head, factor, route, folded_dtype) in [
        (
            GgmlType::Q8_0,
            1e-3,
            64..128,
            0.6,
            FoldRoute::Scales,
            "Q8_0",
        ),
        (
            GgmlType::Q8_0,
            1e-3,
            64..128,
            1e-3,
            FoldRoute::Unquantized,
            "F16",
        ),
        (
            GgmlType::Q8_0,
            1e-3,
            0..512,
            1e-6,
            FoldRoute::Unquantized,
            "F32",
        ),
        (
            GgmlType::Q8_0,
            2e4,
            64..128,
            8.0,
            FoldRoute::Unquantized,
            "F32",
        ),
        (
            GgmlType::Q4_K,
            2e-4,
            0..512,
            1e-6,
            FoldRoute::Unquantized,
            "F32",
        ),
        (
            GgmlType::F16,
            3e4,
            64..128,
            8.0,
            FoldRoute::Unquantized,
            "F32",
        ),
        (GgmlType::BF16, 3e4, 64..128, 8.0, FoldRoute::Values, "BF16"),
    ] {
        let heads = [columns(1, columns_of_head, factor)];
        let folded = fold(dtype, &tensor(dtype, scale, &mut random), &heads);
        folded.check(&heads);
        let summary = &folded.summary;
        assert_eq!(
            (summary.route, summary.folded_dtype.as_str()),
            (route, folded_dtype),
            "{dtype} {scale} {factor}"
        );
        assert!(summary.relative_error < 2e-3, "{summary:?}");
    }
}

#[test]
fn coefficients_of_zero_clear_their_columns() {
    let mut random = Random(6);
    let heads = [columns(1, 64..128, 0.0)];
    for dtype in [
        GgmlType::Q4_0,
        GgmlType::Q4_K,
        GgmlType::Q6_K,
        GgmlType::BF16,
    ] {
        let folded = fold(dtype, &tensor(dtype, 0.02, &mut random), &heads);
        let (_, after) = folded.numbers();
        let is_cleared = |row: &[f32]| row[64..128].iter().all(|&number| number == 0.0);
        assert!(after.chunks(ROW_LEN).all(is_cleared), "{dtype}");
    }
}
