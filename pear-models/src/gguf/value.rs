//! The values of metadata: numbers, texts and lists of them.

use super::cursor::{Cursor, Result};

/// Lists within lists are read this deep.
const DEEPEST: usize = 4;

/// The type of a value in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// In the order of their ids.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type at a place in the file.
    pub fn read(cursor: &mut Cursor) -> Result<Self> {
        let id = cursor.u32()?;
        let known = Self::ALL.get(id as usize).copied();
        known.ok_or_else(|| format!("is of type {id}: the types are 0 to 12"))
    }

    /// Bytes of a value; `None` where they depend on the value.
    fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }

    /// Moves behind a value, checking that it is whole.
    pub fn skip(self, cursor: &mut Cursor) -> Result<()> {
        self.skip_within(cursor, 0)
    }

    fn skip_within(self, cursor: &mut Cursor, depth: usize) -> Result<()> {
        match self {
            Self::Text => cursor.text().map(drop),
            Self::Array => {
                if depth == DEEPEST {
                    return Err(format!("has lists more than {DEEPEST} deep"));
                }
                let (items, len) = (Self::read(cursor)?, cursor.len()?);
                match items.size() {
                    Some(size) => {
                        let bytes = len.checked_mul(size);
                        let bytes = bytes.ok_or_else(|| format!("has a list of {len} items"))?;
                        cursor.take(bytes).map(drop)
                    }
                    None => (0..len).try_for_each(|_| items.skip_within(cursor, depth + 1)),
                }
            }
            _ => {
                let size = self.size().unwrap_or_default();
                cursor.take(size).map(drop)
            }
        }
    }

    /// The value at a place that [`skip`](Self::skip) has passed.
    pub fn decode<'a>(self, cursor: &mut Cursor<'a>) -> Result<MetadataValue<'a>> {
        use MetadataValue::*;
        let mut bits = || -> Result<u64> {
            let mut bytes = [0; 8];
            let taken = cursor.take(self.size().unwrap_or_default())?;
            bytes[..taken.len()].copy_from_slice(taken);
            Ok(u64::from_le_bytes(bytes))
        };
        Ok(match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Unsigned(bits()?),
            Self::I8 => Signed((bits()? as i8).into()),
            Self::I16 => Signed((bits()? as i16).into()),
            Self::I32 => Signed((bits()? as i32).into()),
            Self::I64 => Signed(bits()? as i64),
            Self::F32 => Float(shortest(f32::from_bits(bits()? as u32))),
            Self::F64 => Float(f64::from_bits(bits()?)),
            Self::Bool => Bool(bits()? != 0),
            Self::Text => Text(cursor.text()?),
            Self::Array => {
                let (items, len) = (Self::read(cursor)?, cursor.len()?);
                let start = cursor.clone();
                for _ in 0..len {
                    items.skip(cursor)?;
                }
                Array(MetadataArray {
                    items,
                    len,
                    cursor: start,
                })
            }
        })
    }
}

/// The shortest decimal number that rounds to `x`, which is what was written before it was rounded: 1e-5, not 9.99999974737875e-6.
pub(super) fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| x.into())
}

/// A value of a GGUF file's metadata. Whole numbers of all widths are one kind, as are numbers with a fraction.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MetadataValue<'a> {
    /// A whole number, not negative by its type.
    Unsigned(u64),
    /// A whole number.
    Signed(i64),
    /// A number with a fraction; one of single precision as the shortest decimal that rounds to it.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(&'a str),
    /// A list of values of one type.
    Array(MetadataArray<'a>),
}

impl<'a> MetadataValue<'a> {
    /// A whole number.
    pub fn integer(&self) -> Option<i64> {
        match *self {
            Self::Unsigned(value) => value.try_into().ok(),
            Self::Signed(value) => Some(value),
            _ => None,
        }
    }

    /// A number, whole or not.
    pub fn number(&self) -> Option<f64> {
        match *self {
            Self::Unsigned(value) => Some(value as f64),
            Self::Signed(value) => Some(value as f64),
            Self::Float(value) => Some(value),
            _ => None,
        }
    }

    /// True or false.
    pub fn flag(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Text.
    pub fn text(&self) -> Option<&'a str> {
        match *self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A list of values of one type.
#[derive(Clone, Debug)]
pub struct MetadataArray<'a> {
    items: ValueType,
    len: usize,
    /// At the first value.
    cursor: Cursor<'a>,
}

impl<'a> MetadataArray<'a> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = MetadataValue<'a>> + use<'a> {
        let (items, mut cursor) = (self.items, self.cursor.clone());
        // Every value was checked when the file was opened.
        (0..self.len).map_while(move |_| items.decode(&mut cursor).ok())
    }
}
