//! Bytes as printable letters, as in GPT-2's vocabulary, and as the names of tokens.

/// Bytes that are letters of themselves.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The letter of each byte: its own if that is printable, else the next from U+0100 on.
pub(super) fn letters() -> [char; 256] {
    let mut next = 0x100..;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        match is_printable(byte) {
            true => byte.into(),
            false => next.next().and_then(char::from_u32).unwrap_or_default(),
        }
    })
}

/// The byte of a letter, if it is one's letter.
pub(super) fn of_letter(letter: char) -> Option<u8> {
    match u8::try_from(letter) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => {
            let others = (0..=u8::MAX).filter(|&byte| !is_printable(byte));
            let index = (letter as usize).checked_sub(0x100)?;
            others.clone().nth(index)
        }
    }
}

/// The name of a byte's token.
pub(super) fn name(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// The byte of a token with such a name.
pub(super) fn of_name(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter_and_a_name_of_its_own() {
        let letters = letters();
        assert_eq!(
            [
                letters[b' ' as usize],
                letters[b'\n' as usize],
                letters[0xad]
            ],
            ['Ġ', 'Ċ', 'Ń']
        );
        for byte in 0..=u8::MAX {
            assert_eq!(of_letter(letters[byte as usize]), Some(byte));
            assert_eq!(of_name(&name(byte)), Some(byte));
        }
        assert_eq!([of_letter(' '), of_letter('ń'), of_letter('一')], [None; 3]);
        assert_eq!(of_name("<0xGG>"), None);
    }
}
