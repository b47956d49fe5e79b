//! A matrix that is stored as codes with shared scales, and its numbers.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::packed::Packed;
use crate::checkpoint::convert::FloatDtype;
use crate::checkpoint::tensor_source::{FloatsMut, TensorSource};

/// Rows that are decoded at once: the words of a transposed format hold neighbouring rows side by side.
pub(super) const BAND: usize = 32;
/// Columns that are decoded of one row before the next row's.
const CHUNK: usize = 32;

/// A matrix `[out, in]` whose numbers are `(code − zero) · scale`, scale and zero being shared by a group of codes. All numbers are
/// computed in f32.
#[derive(Debug)]
pub(super) struct Matrix {
    /// Rows, the output channels, and columns, the input channels.
    pub shape: [usize; 2],
    pub codes: Codes,
    pub zeros: Zeros,
    pub scales: Scales,
    pub groups: Groups,
    /// By what numbers are multiplied after the scale.
    pub factor: f32,
    /// What the format is called: `GPTQ int4`.
    pub format: String,
    /// The tensors that hold the matrix and everything that belongs to it.
    pub parts: Vec<String>,
}

/// Where the codes are.
#[derive(Debug)]
pub(super) enum Codes {
    /// Unsigned integers, packed along the columns.
    AlongColumns(Packed),
    /// Unsigned integers, packed along the rows.
    AlongRows(Packed),
    /// Signed bytes.
    Bytes(String),
    /// Bytes, each the index of a number.
    Table8(String, Box<[f32; 256]>),
    /// Two indices a byte, that of the first number in the upper half.
    Table4(String, [f32; 16]),
}

/// What is subtracted from the codes.
#[derive(Debug)]
pub(super) enum Zeros {
    /// The same for all.
    Constant(f32),
    /// Packed along the rows, a line for each group; `plus` is added to what is stored, modulo the number of codes.
    AlongRows { packed: Packed, plus: u32 },
    /// Packed along the groups, a line for each row.
    AlongGroups(Packed),
    /// Signed bytes that stand like the scales.
    Bytes(String),
}

/// Where the scales are.
#[derive(Debug)]
pub(super) struct Scales {
    pub source: ScaleSource,
    /// Rows that share scales.
    pub rows_per_scale: usize,
    /// Distance between the scales of rows that follow each other.
    pub row_stride: usize,
    /// Distance between the scales of groups that follow each other.
    pub group_stride: usize,
    /// How many places in a row belong to one scale: more than one only where blocks reach over the end of a row.
    pub places_per_scale: usize,
}

/// How scales are stored.
#[derive(Debug)]
pub(super) enum ScaleSource {
    /// As numbers.
    Floats(String, FloatDtype),
    /// Quantised in turn: bytes, each the index of a number, in blocks with a scale each; `offset` is added.
    Nested {
        codes: String,
        table: Box<[f32; 256]>,
        scales: String,
        block: usize,
        offset: f32,
    },
}

/// Which columns share a scale.
#[derive(Debug)]
pub(super) enum Groups {
    /// So many neighbours; the last group may be smaller.
    Of(usize),
    /// The group of each column, and how many groups there are.
    Listed(Vec<u32>, usize),
}

impl Groups {
    pub(super) fn of(&self, column: usize) -> usize {
        match self {
            Self::Of(size) => column / size,
            Self::Listed(groups, _) => groups[column] as usize,
        }
    }

    pub(super) fn count(&self, columns: usize) -> usize {
        match self {
            Self::Of(size) => columns.div_ceil(*size),
            Self::Listed(_, count) => *count,
        }
    }
}

impl Scales {
    /// The place of a scale.
    pub(super) fn index(&self, row: usize, group: usize) -> usize {
        let place = row / self.rows_per_scale * self.row_stride + group * self.group_stride;
        place / self.places_per_scale
    }

    /// The scale at each place.
    pub(super) fn reader<'a>(
        &'a self,
        tensors: &'a dyn TensorSource,
    ) -> Box<dyn Fn(usize) -> f32 + 'a> {
        match &self.source {
            ScaleSource::Floats(name, dtype) => {
                let scales = bytes(tensors, name);
                Box::new(move |index| float(scales, *dtype, index))
            }
            ScaleSource::Nested {
                codes,
                table,
                scales,
                block,
                offset,
            } => {
                let (codes, scales) = (bytes(tensors, codes), bytes(tensors, scales));
                Box::new(move |index| {
                    let scale = float(scales, FloatDtype::F32, index / block);
                    table[usize::from(codes[index])] * scale + offset
                })
            }
        }
    }
}

impl Matrix {
    /// Writes the numbers of a range, in row-major order, each rounded once.
    pub(super) fn read(
        &self,
        tensors: &dyn TensorSource,
        range: Range<usize>,
        mut into: FloatsMut<'_>,
    ) {
        let columns = self.shape[1];
        let mut band = Vec::new();
        let mut position = range.start;
        while position < range.end {
            let first = position / columns;
            let rows = first..range.end.div_ceil(columns).min(first + BAND);
            band.resize(rows.len() * columns, 0.0);
            self.rows(tensors, rows.clone(), &mut band);
            let end = range.end.min(rows.end * columns);
            let numbers = &band[position - first * columns..end - first * columns];
            let target = position - range.start..end - range.start;
            match &mut into {
                FloatsMut::F32(into) => into[target].copy_from_slice(numbers),
                FloatsMut::F16(into) => into[target].convert_from_f32_slice(numbers),
                FloatsMut::BF16(into) => into[target].convert_from_f32_slice(numbers),
            }
            position = end;
        }
    }

    /// Decodes whole rows.
    pub(super) fn rows(&self, tensors: &dyn TensorSource, rows: Range<usize>, into: &mut [f32]) {
        let end = rows.end;
        let starts = rows.step_by(BAND);
        for (start, into) in starts.zip(into.chunks_mut(BAND * self.shape[1])) {
            self.band(tensors, start..end.min(start + BAND), into);
        }
    }

    fn band(&self, tensors: &dyn TensorSource, rows: Range<usize>, into: &mut [f32]) {
        let columns = self.shape[1];
        let num_groups = self.groups.count(columns);
        let mut shared = Vec::with_capacity(rows.len() * num_groups);
        let (zeros, scale) = (self.zeros.bytes(tensors), self.scales.reader(tensors));
        for row in rows.clone() {
            for group in 0..num_groups {
                let index = self.scales.index(row, group);
                let zero = self.zeros.get(zeros, row, group, index);
                shared.push((zero, scale(index)));
            }
        }
        let codes = bytes(tensors, self.codes.tensor());
        for start in (0..columns).step_by(CHUNK) {
            let chunk = start..columns.min(start + CHUNK);
            for (band_row, row) in rows.clone().enumerate() {
                let shared = &shared[band_row * num_groups..][..num_groups];
                let into = &mut into[band_row * columns..][chunk.clone()];
                for (value, column) in into.iter_mut().zip(chunk.clone()) {
                    let (zero, scale) = shared[self.groups.of(column)];
                    let code = self.codes.get(codes, row, column, columns);
                    *value = (code - zero) * scale * self.factor;
                }
            }
        }
    }
}

impl Codes {
    /// The tensor that holds them.
    pub(super) fn tensor(&self) -> &str {
        match self {
            Self::AlongColumns(packed) | Self::AlongRows(packed) => &packed.tensor,
            Self::Bytes(tensor) | Self::Table8(tensor, _) | Self::Table4(tensor, _) => tensor,
        }
    }

    fn get(&self, codes: &[u8], row: usize, column: usize, columns: usize) -> f32 {
        let index = row * columns + column;
        match self {
            Self::AlongColumns(packed) => packed.get(codes, column, row) as f32,
            Self::AlongRows(packed) => packed.get(codes, row, column) as f32,
            Self::Bytes(_) => f32::from(codes[index].cast_signed()),
            Self::Table8(_, table) => table[usize::from(codes[index])],
            Self::Table4(_, table) => {
                let pair = codes[index / 2];
                let code = if index.is_multiple_of(2) {
                    pair >> 4
                } else {
                    pair & 15
                };
                table[usize::from(code)]
            }
        }
    }
}

impl Zeros {
    fn bytes<'a>(&self, tensors: &'a dyn TensorSource) -> &'a [u8] {
        match self {
            Self::Constant(_) => &[],
            Self::AlongRows { packed, .. } | Self::AlongGroups(packed) => {
                bytes(tensors, &packed.tensor)
            }
            Self::Bytes(tensor) => bytes(tensors, tensor),
        }
    }

    fn get(&self, zeros: &[u8], row: usize, group: usize, scale_index: usize) -> f32 {
        match self {
            Self::Constant(zero) => *zero,
            Self::AlongRows { packed, plus } => {
                let zero = packed.get(zeros, row, group) + plus;
                (zero & ((1 << packed.bits) - 1)) as f32
            }
            Self::AlongGroups(packed) => packed.get(zeros, group, row) as f32,
            Self::Bytes(_) => f32::from(zeros[scale_index].cast_signed()),
        }
    }
}

/// The bytes of a tensor that is one piece.
pub(super) fn bytes<'a>(tensors: &'a dyn TensorSource, name: &str) -> &'a [u8] {
    tensors.raw(name).first().copied().unwrap_or_default()
}

/// One number among bytes.
pub(super) fn float(bytes: &[u8], dtype: FloatDtype, index: usize) -> f32 {
    match dtype {
        FloatDtype::F32 => f32::from_le_bytes(bytes.as_chunks().0[index]),
        FloatDtype::F16 => f16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
        FloatDtype::BF16 => bf16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
    }
}
