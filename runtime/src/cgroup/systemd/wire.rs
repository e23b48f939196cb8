//! D-Bus messages as bytes: as much of the format as it takes to talk to systemd. D-Bus specification, "Message Protocol".
//!
//! ```text
//! byte order 'l', type, flags, version 1, u32 length of the body, u32 serial,
//! array of (byte field, variant), padding to 8, body
//! ```
//!
//! Every value is aligned to its size, counted from the start of the message: strings are u32 length, bytes, NUL;
//! arrays u32 length in bytes, padding to the elements' alignment, elements; a variant is its signature and its value.

use std::io;

/// The kinds of messages.
pub(super) const CALL: u8 = 1;
pub(super) const RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// Bytes of a message before its header fields.
pub(super) const FIXED: usize = 16;

/// The bus's own limit.
const MESSAGE_MAX: usize = 128 << 20;

/// A value of one of the types that systemd's properties have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Flag(bool),
    /// `i`
    Integer(i32),
    /// `x`
    Long(i64),
    /// `u`
    Id(u32),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `au`
    Ids(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
}

impl Value {
    const fn signature(&self) -> &'static str {
        match self {
            Self::Flag(_) => "b",
            Self::Integer(_) => "i",
            Self::Long(_) => "x",
            Self::Id(_) => "u",
            Self::Number(_) => "t",
            Self::Text(_) => "s",
            Self::Texts(_) => "as",
            Self::Ids(_) => "au",
            Self::Bytes(_) => "ay",
        }
    }
}

/// Writes values one after the other.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn long(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn text(&mut self, value: &str) {
        self.number(length(value.len()));
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    pub(super) fn signature(&mut self, value: &str) {
        self.0.push(value.len().to_le_bytes()[0]);
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    /// An array; its length does not count the padding before its first element.
    pub(super) fn array(&mut self, element_align: usize, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.0.len() - 4;
        self.align(element_align);
        let start = self.0.len();
        fill(self);
        let bytes = length(self.0.len() - start).to_le_bytes();
        self.0[at..at + 4].copy_from_slice(&bytes);
    }

    pub(super) fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Flag(flag) => self.number(u32::from(*flag)),
            Value::Integer(number) => self.number(number.cast_unsigned()),
            Value::Id(number) => self.number(*number),
            Value::Long(number) => self.long(number.cast_unsigned()),
            Value::Number(number) => self.long(*number),
            Value::Text(text) => self.text(text),
            Value::Texts(texts) => self.array(4, |out| texts.iter().for_each(|text| out.text(text))),
            Value::Ids(ids) => self.array(4, |out| ids.iter().for_each(|id| out.number(*id))),
            Value::Bytes(bytes) => self.array(1, |out| out.0.extend(bytes)),
        }
    }

    /// `a(sv)`
    pub(super) fn properties(&mut self, properties: &[(String, Value)]) {
        self.array(8, |out| {
            for (name, value) in properties {
                out.align(8);
                out.text(name);
                out.variant(value);
            }
        });
    }
}

/// Nothing that is sent comes near 4 GiB.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A call of `member` of `interface` of the object at `path`.
pub(super) fn call(
    serial: u32,
    [destination, path, interface, member]: [&str; 4],
    signature: &str,
    body: Writer,
) -> Vec<u8> {
    let body = body.into_bytes();
    let mut out = Writer::default();
    [b'l', CALL, 0, 1].iter().for_each(|byte| out.byte(*byte));
    out.number(length(body.len()));
    out.number(serial);
    out.array(8, |out| {
        for (field, kind, value) in [
            (1, "o", path),
            (2, "s", interface),
            (3, "s", member),
            (6, "s", destination),
            (8, "g", signature),
        ] {
            if value.is_empty() {
                continue;
            }
            out.align(8);
            out.byte(field);
            out.signature(kind);
            if kind == "g" { out.signature(value) } else { out.text(value) }
        }
    });
    out.align(8);
    let mut bytes = out.into_bytes();
    bytes.extend(body);
    bytes
}

/// A message received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    /// Which call this answers.
    pub(super) reply_to: u32,
    /// Of signals.
    pub(super) member: String,
    /// Of errors.
    pub(super) error: String,
    pub(super) body: Vec<u8>,
}

/// How many bytes a message has whose first [`FIXED`] are `start`.
pub(super) fn message_length(start: &[u8; FIXED]) -> io::Result<usize> {
    let number =
        |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]) as usize;
    let (body, fields) = (number(4), number(12));
    let total = FIXED.saturating_add(fields).saturating_add(7) / 8 * 8;
    match total.saturating_add(body) {
        // What answers here has this machine's byte order.
        length if start[0] == b'l' && start[3] == 1 && length <= MESSAGE_MAX => Ok(length),
        _ => Err(malformed()),
    }
}

/// Takes a whole message apart.
pub(super) fn parse(bytes: &[u8]) -> io::Result<Message> {
    let mut message = Message { kind: *bytes.get(1).ok_or_else(malformed)?, ..Message::default() };
    let mut input = Reader { bytes, at: 12 };
    let end = input.number()? as usize + FIXED;
    while input.at < end {
        input.align(8);
        let field = input.byte()?;
        let kind = input.signature()?;
        let (mut number, mut text) = (0, String::new());
        match kind.as_str() {
            "u" => number = input.number()?,
            "g" => text = input.signature()?,
            "s" | "o" => text = input.text()?,
            _ => return Err(malformed()),
        }
        match field {
            3 => message.member = text,
            4 => message.error = text,
            5 => message.reply_to = number,
            _ => {}
        }
    }
    input.align(8);
    message.body = bytes.get(input.at..).ok_or_else(malformed)?.to_vec();
    Ok(message)
}

/// Reads values one after the other.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or_else(malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> io::Result<u32> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| malformed())?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn text(&mut self) -> io::Result<String> {
        let length = self.number()? as usize;
        self.terminated(length)
    }

    pub(super) fn signature(&mut self) -> io::Result<String> {
        let length = self.byte()?.into();
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> io::Result<String> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed D-Bus message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let mut body = Writer::default();
        body.text("x.scope");
        let bytes = call(7, ["d.e", "/o", "i.f", "Do"], "s", body);
        let expect: &[&[u8]] = &[
            b"l\x01\0\x01\x0c\0\0\0\x07\0\0\0\x45\0\0\0",
            b"\x01\x01o\0\x02\0\0\0/o\0\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0i.f\0\0\0\0\0",
            b"\x03\x01s\0\x02\0\0\0Do\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0d.e\0\0\0\0\0",
            b"\x08\x01g\0\x01s\0\0",
            b"\x07\0\0\0x.scope\0",
        ];
        let expect = expect.concat();
        assert_eq!(bytes[12], u8::try_from(16 + 16 + 16 + 16 + 7).expect("small"));
        assert_eq!(bytes[16..], expect[16..]);
        assert_eq!(bytes[..12], expect[..12]);
    }

    #[test]
    fn values_are_aligned_in_variants_and_arrays() {
        let mut out = Writer::default();
        out.properties(&[("A".into(), Value::Number(5)), ("B".into(), Value::Ids(vec![9]))]);
        let expect: &[&[u8]] = &[
            b"\x2c\0\0\0\0\0\0\0",
            b"\x01\0\0\0A\0\x01t\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
            b"\x01\0\0\0B\0\x02au\0\0\0\x04\0\0\0\x09\0\0\0",
        ];
        let bytes = out.into_bytes();
        assert_eq!(bytes[4..], expect.concat()[4..]);
        assert_eq!(bytes[0], u8::try_from(bytes.len() - 8).expect("small"));
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let mut out = Writer::default();
        [b'l', ERROR, 1, 1].iter().for_each(|byte| out.byte(*byte));
        out.number(8);
        out.number(3);
        out.array(8, |out| {
            for (field, kind, text) in [(4, "s", "org.x.Bad"), (5, "u", ""), (8, "g", "s")] {
                out.align(8);
                out.byte(field);
                out.signature(kind);
                match kind {
                    "u" => out.number(7),
                    "g" => out.signature(text),
                    _ => out.text(text),
                }
            }
        });
        out.align(8);
        out.text("why");
        let bytes = out.into_bytes();
        let start = bytes[..FIXED].try_into().expect("16 bytes");
        assert_eq!(message_length(&start).expect("length"), bytes.len());
        let message = parse(&bytes).expect("message");
        assert_eq!((message.kind, message.reply_to, message.error.as_str()), (ERROR, 7, "org.x.Bad"));
        assert_eq!(Reader::new(&message.body).text().expect("text"), "why");
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        assert!(message_length(b"B\x01\0\x01\0\0\0\0\0\0\0\0\0\0\0\0").is_err());
        assert!(message_length(b"l\x01\0\x01\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff").is_err());
        assert!(parse(b"l\x02\0\x01\0\0\0\0\x01\0\0\0\x08\0\0\0\x05\x01u\0").is_err());
    }
}
