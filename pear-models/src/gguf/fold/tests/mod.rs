//! Small files of every type, folded and read again.

mod files;
mod routes;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;

use super::scales::scale_fields;
use super::*;
use crate::fold_plan::FoldedTensor;
use crate::gguf::dequantize::dequantize;
use crate::gguf::ggml_type::GgmlType;
use crate::gguf::open_all;

/// The name of the output projection, as most architectures have it.
const PROJECTION: &str = "blk.0.attn_output.weight";
const ROW_LEN: usize = 512;
const NUM_ROWS: usize = 6;

struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
        (self.0 >> 56) as u8
    }

    /// From 0.5 to 1 or from −1 to −0.5.
    fn scale(&mut self) -> f32 {
        let size = 0.5 + f32::from(self.byte()) / 510.0;
        if self.byte() < 128 { size } else { -size }
    }
}

/// Rows of random codes with scales around `scale`.
fn tensor(dtype: GgmlType, scale: f32, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..NUM_ROWS * ROW_LEN / dtype.block_len() {
        let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| random.byte()).collect();
        let mut number = || scale * random.scale();
        for &at in scale_fields(dtype) {
            block[at..at + 2].copy_from_slice(&f16::from_f32(number()).to_le_bytes());
        }
        match dtype {
            GgmlType::F32 => block = number().to_le_bytes().to_vec(),
            GgmlType::F16 => block = f16::from_f32(number()).to_le_bytes().to_vec(),
            GgmlType::BF16 => block = half::bf16::from_f32(number()).to_le_bytes().to_vec(),
            GgmlType::F64 => block = f64::from(number()).to_le_bytes().to_vec(),
            GgmlType::Q8_K => block[..4].copy_from_slice(&number().to_le_bytes()),
            GgmlType::MXFP4 => block[0] = 120 + block[0] % 8,
            GgmlType::NVFP4 => block[..4].iter_mut().for_each(|scale| *scale %= 0x60),
            // The highest digits of the scale in the four fields.
            GgmlType::IQ1_M => (0..4).for_each(|field| {
                let byte = &mut block[49 + 2 * field];
                *byte = *byte & 15 | [0x00, 0x00, 0x80, 0x20][field];
            }),
            _ => {}
        }
        bytes.extend(block);
    }
    bytes
}

/// A file of these tensors, each as wide as [`ROW_LEN`], with padding of another alignment than the usual one.
fn write_file(path: &Path, keys: &[(&str, u32)], tensors: &[(&str, GgmlType, &[u8])]) {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64 + 1).to_le_bytes());
    for (key, value) in keys.iter().chain(&[("general.alignment", 64)]) {
        record::put_text(&mut bytes, key);
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    let mut offset = 0;
    for (name, dtype, data) in tensors {
        record::put_text(&mut bytes, name);
        bytes.extend(2u32.to_le_bytes());
        let num_rows = data.len() / dtype.row_bytes(ROW_LEN).unwrap();
        bytes.extend((ROW_LEN as u64).to_le_bytes());
        bytes.extend((num_rows as u64).to_le_bytes());
        bytes.extend(dtype.id().to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset += data.len().next_multiple_of(64);
    }
    for (_, _, data) in tensors {
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        bytes.extend_from_slice(data);
    }
    fs::write(path, bytes).unwrap();
}

fn columns(head: usize, columns: Range<usize>, factor: f32) -> HeadColumns {
    HeadColumns {
        head: HeadId::new(0, head),
        columns,
        factor,
    }
}

fn projection(columns: &[HeadColumns]) -> BTreeMap<String, Vec<HeadColumns>> {
    BTreeMap::from([(PROJECTION.into(), columns.to_vec())])
}

/// What folding made of a file with one tensor before the projection and one behind it.
struct Folded {
    _folder: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
    summary: FoldedTensor,
}

fn fold(dtype: GgmlType, data: &[u8], heads: &[HeadColumns]) -> Folded {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("m.gguf"), folder.path().join("f.gguf"));
    let mut random = Random(5);
    let before = tensor(GgmlType::Q6_K, 0.1, &mut random);
    let behind = tensor(GgmlType::Q5_1, 0.1, &mut random);
    let tensors = [
        ("before", GgmlType::Q6_K, &before[..]),
        (PROJECTION, dtype, data),
        ("behind", GgmlType::Q5_1, &behind[..]),
    ];
    write_file(&source, &[("general.file_type", 15)], &tensors);
    let files = open_all(&source).unwrap();
    let plan = GgufFold::plan(&files, &projection(heads)).unwrap();
    plan.write(&[&target]).unwrap();
    let [summary] = plan.summary().tensors.try_into().unwrap();
    Folded {
        _folder: folder,
        source,
        target,
        summary,
    }
}

impl Folded {
    fn open(&self) -> (GgufFile, GgufFile) {
        let open = |path| GgufFile::open(path).unwrap();
        (open(&self.source), open(&self.target))
    }

    /// The numbers of the projection before and after.
    fn numbers(&self) -> (Vec<f32>, Vec<f32>) {
        let numbers = |file: &GgufFile| {
            let tensor = &file.tensors()[1];
            let mut numbers = vec![0.0; tensor.shape.iter().product()];
            dequantize(tensor.dtype, file.tensor_bytes(tensor), &mut numbers);
            numbers
        };
        let (source, target) = self.open();
        (numbers(&source), numbers(&target))
    }

    /// Checks that what the summary says of the error is true, and that whatever was not to change did not.
    fn check(&self, heads: &[HeadColumns]) {
        let name = &self.summary.dtype;
        let (before, after) = self.numbers();
        let factor = |index: usize| {
            let of_head = heads
                .iter()
                .find(|head| head.columns.contains(&(index % ROW_LEN)));
            of_head.map_or(1.0, |head| head.factor)
        };
        let rewritten =
            |index: usize| factor(index) != 1.0 || self.summary.dtype != self.summary.folded_dtype;
        let (mut squared_error, mut squares) = (0.0, 0.0);
        for (index, (&was, &is)) in before.iter().zip(&after).enumerate() {
            if rewritten(index) {
                let exact = f64::from(was) * f64::from(factor(index));
                squared_error += (f64::from(is) - exact).powi(2);
                squares += exact.powi(2);
            } else {
                assert_eq!(was.to_bits(), is.to_bits(), "{name}, {index}");
            }
        }
        let error = (squared_error / squares).sqrt();
        let stated = self.summary.relative_error;
        assert!(
            (error - stated).abs() <= 1e-9 + 1e-6 * stated,
            "{name}: {error}, stated {stated}"
        );

        let (source, target) = self.open();
        for (was, is) in source.tensors().iter().zip(target.tensors()) {
            assert_eq!((&was.name, &was.shape), (&is.name, &is.shape));
            if was.name != PROJECTION {
                assert_eq!(
                    source.tensor_bytes(was),
                    target.tensor_bytes(is),
                    "{}",
                    was.name
                );
                assert_eq!(was.dtype, is.dtype);
            }
        }
        let (num_keys, keys) = source.metadata().section();
        let (num_kept, kept) = target.metadata().section();
        assert_eq!((num_keys + 3, keys), (num_kept, &kept[..keys.len()]));
        assert_eq!(target.alignment(), 64);
    }
}

/// Heads of 64: two neighbours and one that shares its superblock with a head that stays as it is.
fn heads_of_64() -> Vec<HeadColumns> {
    vec![
        columns(1, 64..128, 0.62),
        columns(2, 128..192, -0.4),
        columns(7, 448..512, 1.7),
    ]
}
