//! Little-endian values read one after another, each checked against the bytes that are left.

/// What is wrong, without the file's name.
pub(super) type Result<T> = std::result::Result<T, String>;

/// A place in the bytes of a file.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

macro_rules! read_number {
    ($name:ident, $type:ty) => {
        pub fn $name(&mut self) -> Result<$type> {
            let bytes = self.take(size_of::<$type>())?;
            Ok(<$type>::from_le_bytes(
                bytes.try_into().expect("as many bytes as were asked for"),
            ))
        }
    };
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bytes from the start.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let left = &self.bytes[self.position..];
        let Some(taken) = left.get(..len) else {
            return Err(format!(
                "ends at byte {}, within a value of {len} bytes at byte {}",
                self.bytes.len(),
                self.position
            ));
        };
        self.position += len;
        Ok(taken)
    }

    read_number!(u32, u32);
    read_number!(u64, u64);

    /// A number of bytes or items in memory.
    pub fn len(&mut self) -> Result<usize> {
        let len = self.u64()?;
        usize::try_from(len).map_err(|_| format!("has a length of {len}"))
    }

    /// Text after its length in bytes.
    pub fn text(&mut self) -> Result<&'a str> {
        let len = self.len()?;
        let start = self.position;
        std::str::from_utf8(self.take(len)?)
            .map_err(|e| format!("has text at byte {start} that is not UTF-8: {e}"))
    }

    /// A text that names something: of 1 to `longest` bytes, on one line.
    pub fn name(&mut self, longest: usize) -> Result<&'a str> {
        let name = self.text()?;
        if name.is_empty() || name.len() > longest {
            return Err(format!("has {} bytes: expected 1 to {longest}", name.len()));
        }
        if name.contains(char::is_control) {
            let start: String = name.chars().take(60).collect();
            return Err(format!("is {start:?}: expected no control characters"));
        }
        Ok(name)
    }
}
