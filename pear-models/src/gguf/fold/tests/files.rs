//! What is written besides the projections, and what is refused.

use super::*;

/// The error of folding a file of one projection.
fn failure(dtype: GgmlType, data: &[u8], heads: &[HeadColumns]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("m.gguf");
    write_file(&source, &[], &[(PROJECTION, dtype, data)]);
    let files = open_all(&source).unwrap();
    GgufFold::plan(&files, &projection(heads))
        .unwrap_err()
        .to_string()
}

#[test]
fn what_no_type_holds_is_an_error_that_names_tensor_and_head() {
    let mut random = Random(7);
    let heads = [columns(0, 0..64, 0.5), columns(3, 192..256, 1e30)];
    let large = tensor(GgmlType::F32, 1e20, &mut random);
    let error = failure(GgmlType::F32, &large, &heads);
    assert!(
        error.contains("tensor `blk.0.attn_output.weight`: head 0.3: ")
            && error
                .ends_with(" × 1000000000000000000000000000000 is no finite number in any type"),
        "{error}"
    );
    let mut infinite = tensor(GgmlType::Q8_0, 0.1, &mut random);
    infinite[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
    let error = failure(GgmlType::Q8_0, &infinite, &heads[..1]);
    assert!(
        error.contains("head 0.0: ") && error.contains("inf × 0.5"),
        "{error}"
    );
    let error = failure(GgmlType::I8, &[0; ROW_LEN], &heads);
    assert!(
        error.ends_with("is I8: integers cannot be re-weighted"),
        "{error}"
    );
    let error = failure(
        GgmlType::F16,
        &[0; 2 * ROW_LEN],
        &[columns(8, 512..576, 0.5)],
    );
    assert!(
        error.ends_with("has rows of 512 numbers: head 0.8 has the numbers 512..576"),
        "{error}"
    );
}

#[test]
fn a_folded_file_is_not_folded_again() {
    let data = tensor(GgmlType::Q4_0, 0.02, &mut Random(8));
    let folded = fold(GgmlType::Q4_0, &data, &heads_of_64());
    let (_, target) = folded.open();
    let metadata = target.metadata();
    assert_eq!(
        metadata.texts("pear.heads").unwrap().unwrap(),
        ["0.1", "0.2", "0.7"]
    );
    assert_eq!(
        metadata.numbers("pear.coefficients").unwrap().unwrap(),
        [0.62, -0.4, 1.7]
    );
    let error = GgufFold::plan(&[target], &projection(&heads_of_64()))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with(
            "`pear.version`: coefficients were folded into this file before (heads 0.1, 0.2, 0.7): fold the original file"
        ),
        "{error}"
    );
}

#[test]
fn nothing_but_a_key_is_added_where_no_head_changes() {
    let data = tensor(GgmlType::Q4_K, 0.02, &mut Random(9));
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("m.gguf"), folder.path().join("f.gguf"));
    write_file(&source, &[], &[(PROJECTION, GgmlType::Q4_K, &data)]);
    let files = open_all(&source).unwrap();
    let plan = GgufFold::plan(&files, &BTreeMap::new()).unwrap();
    assert_eq!(plan.summary().tensors, []);
    plan.write(&[&target]).unwrap();
    let written = GgufFile::open(&target).unwrap();
    assert_eq!(written.tensor_bytes(&written.tensors()[0]), data);
    assert_eq!(
        written.metadata().keys().collect::<Vec<_>>(),
        ["general.alignment", "pear.version"]
    );
}

#[test]
fn every_part_of_a_split_model_is_written_and_the_first_holds_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, part: usize| {
        folder
            .path()
            .join(format!("{name}-0000{part}-of-00002.gguf"))
    };
    let mut random = Random(10);
    let (q4_k, q6_k) = (
        tensor(GgmlType::Q4_K, 0.02, &mut random),
        tensor(GgmlType::Q6_K, 0.02, &mut random),
    );
    let keys = |number| {
        [
            ("split.no", number),
            ("split.count", 2),
            ("split.tensors.count", 3),
        ]
    };
    write_file(&path("m", 1), &keys(0), &[("a", GgmlType::Q6_K, &q6_k)]);
    write_file(
        &path("m", 2),
        &keys(1),
        &[
            (PROJECTION, GgmlType::Q4_K, &q4_k),
            ("b", GgmlType::Q6_K, &q6_k),
        ],
    );
    let files = open_all(&path("m", 1)).unwrap();
    let plan = GgufFold::plan(&files, &projection(&heads_of_64())).unwrap();
    plan.write(&[path("f", 1), path("f", 2)]).unwrap();
    let folded = open_all(&path("f", 1)).unwrap();
    assert!(folded[0].metadata().get("pear.heads").is_some());
    assert!(folded[1].metadata().get("pear.heads").is_none());
    let [projection, behind] = folded[1].tensors() else {
        panic!("{:?}", folded[1].tensors());
    };
    assert_eq!(
        (projection.name.as_str(), projection.dtype),
        (PROJECTION, GgmlType::Q4_1)
    );
    assert_eq!(folded[1].tensor_bytes(behind), q6_k);
    let error = GgufFold::plan(&folded, &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("folded into this file before"));
}
