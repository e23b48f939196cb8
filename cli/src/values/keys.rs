//! Keys that leave a container's terminal.

use super::Reason;

/// So many keys have room beside what is typed.
const KEYS_MAX: usize = 64;

/// A sequence of keys, as the terminal sends them; none if it is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys(pub(crate) Vec<u8>);

impl Default for Keys {
    /// Ctrl-P, Ctrl-Q.
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

/// Keys between commas, each a character or `ctrl-` and one of `a` to `z`, `@`, `[`, `\`, `]`, `^` and `_`.
pub(crate) fn parse(text: &str) -> Result<Keys, Reason> {
    let key = |name: &str| match (name.strip_prefix("ctrl-"), name.as_bytes()) {
        (None, [byte]) => Ok(*byte),
        (Some(name), _) => match name.as_bytes() {
            [letter @ b'a'..=b'z'] => Ok(letter & 0x1f),
            [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(sign & 0x1f),
            _ => Err(format!("there is no key 'ctrl-{name}'")),
        },
        _ => Err(format!("there is no key '{name}'")),
    };
    if text.is_empty() {
        return Ok(Keys(Vec::new()));
    }
    let keys: Vec<u8> = text.split(',').map(key).collect::<Result<_, _>>()?;
    if keys.len() > KEYS_MAX { Err(format!("more than {KEYS_MAX} keys")) } else { Ok(Keys(keys)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_a_terminal_sends() {
        let check = |text: &str, bytes: &[u8]| assert_eq!(parse(text), Ok(Keys(bytes.into())), "{text}");
        check("ctrl-p,ctrl-q", &[16, 17]);
        check("ctrl-@,a,ctrl-_,ctrl-[", &[0, b'a', 31, 27]);
        check("", &[]);
        for text in ["ctrl-", "ctrl-A", "ab", "a,,b", "ctrl-1"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("ctrl-p,ctrl-q"), Ok(Keys::default()));
    }
}
