//! WebSocket frames of clients that have not shown the token yet (RFC 6455, §5.2).

use std::io::{self, BufRead, ErrorKind, Read};

/// What a [`Frame`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    /// A whole message.
    Binary,
    Close,
    Pong,
}

/// A whole frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    /// Header and payload, as they came.
    pub(super) bytes: Vec<u8>,
}

/// The first byte of a message that is one frame, in either direction.
pub(super) const BINARY: u8 = 0x82;

impl Frame {
    /// Reads a frame with a payload of at most `most` bytes; `None` where the stream ends before it.
    ///
    /// # Errors
    /// The payload is longer, or it is a frame that burn's clients do not send: a part of a message, text, a ping, an unmasked one.
    pub(super) fn read(reader: &mut impl BufRead, most: usize) -> io::Result<Option<Self>> {
        if reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut bytes = vec![0; 2];
        reader.read_exact(&mut bytes)?;
        let opcode = match bytes[0] {
            BINARY => Opcode::Binary,
            0x88 => Opcode::Close,
            0x8a => Opcode::Pong,
            _ => return Err(refused("not a whole binary message")),
        };
        if bytes[1] & 0x80 == 0 {
            return Err(refused("unmasked"));
        }
        let length_bytes = match bytes[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mut payload = u64::from(bytes[1] & 0x7f);
        if length_bytes > 0 {
            let mut length = [0; 8];
            reader.read_exact(&mut length[8 - length_bytes..])?;
            bytes.extend(&length[8 - length_bytes..]);
            payload = u64::from_be_bytes(length);
        }
        if payload > most as u64 {
            return Err(refused("too long"));
        }
        let rest = MASK + payload;
        if reader.by_ref().take(rest).read_to_end(&mut bytes)? < rest as usize {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(Self { opcode, bytes }))
    }
}

/// Bytes of the mask, which are between header and payload.
const MASK: u64 = 4;

fn refused(reason: &str) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("a frame without a token: {reason}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, length: &[u8], payload: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        bytes.extend(length);
        bytes.extend([1, 2, 3, 4]);
        bytes.resize(bytes.len() + payload, 7);
        bytes
    }

    #[test]
    fn whole_frames_are_read_one_by_one() {
        let frames = [
            frame(0x82, &[0x80 | 5], 5),
            frame(0x8a, &[0x80], 0),
            frame(0x82, &[0x80 | 126, 1, 0], 256),
            frame(0x82, &[0x80 | 127, 0, 0, 0, 0, 0, 0, 1, 1], 257),
            frame(0x88, &[0x80 | 2], 2),
        ];
        let bytes = frames.concat();
        let mut reader = &bytes[..];
        for frame in &frames {
            assert_eq!(
                Frame::read(&mut reader, 257).unwrap().unwrap().bytes,
                *frame
            );
        }
        assert_eq!(Frame::read(&mut reader, 257).unwrap(), None);
    }

    #[test]
    fn long_partial_text_ping_and_unmasked_frames_are_errors() {
        for bytes in [
            frame(0x82, &[0x80 | 126, 1, 1], 257),
            frame(0x82, &[0x80 | 127, 0, 0, 0, 0, 0x40, 0, 0, 0], 9),
            frame(
                0x82,
                &[0x80 | 127, 255, 255, 255, 255, 255, 255, 255, 255],
                9,
            ),
            frame(0x02, &[0x80 | 5], 5),
            frame(0x80, &[0x80 | 5], 5),
            frame(0x81, &[0x80 | 5], 5),
            frame(0x89, &[0x80 | 5], 5),
            frame(0xc2, &[0x80 | 5], 5),
            frame(0x82, &[5], 5),
            b"GET / HTTP/1.1".to_vec(),
        ] {
            let error = Frame::read(&mut &bytes[..], 256).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{bytes:?}");
        }
        for end in 1..11 {
            let bytes = &frame(0x82, &[0x80 | 5], 5)[..end];
            let error = Frame::read(&mut &bytes[..], 256).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{end}");
        }
    }
}
