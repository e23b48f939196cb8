//! Writes protocol buffers: as much of the wire format as is needed to write messages whose fields are known.
//!
//! <https://protobuf.dev/programming-guides/encoding/>. Nothing is checked against a schema, and nothing is read.

/// A message in the making. Fields stand in the order in which they were put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

/// How a field's value is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Length = 2,
}

impl Message {
    /// Without fields.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Its bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Of type `uint64`, `uint32`, `int64` that is not negative, `bool` or an enumeration.
    pub fn varint(&mut self, field: u32, value: u64) -> &mut Self {
        self.tag(field, Wire::Varint);
        put_varint(&mut self.0, value);
        self
    }

    /// Of type `int64`: what is negative takes ten bytes.
    pub fn int64(&mut self, field: u32, value: i64) -> &mut Self {
        self.varint(field, value.cast_unsigned())
    }

    /// Of type `fixed64` or `sfixed64`.
    pub fn fixed64(&mut self, field: u32, value: u64) -> &mut Self {
        self.tag(field, Wire::Fixed64);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Of type `double`.
    pub fn double(&mut self, field: u32, value: f64) -> &mut Self {
        self.fixed64(field, value.to_bits())
    }

    /// Of type `bytes`.
    pub fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Self {
        self.tag(field, Wire::Length);
        put_varint(&mut self.0, value.len() as u64);
        self.0.extend(value);
        self
    }

    /// Of type `string`.
    pub fn string(&mut self, field: u32, value: &str) -> &mut Self {
        self.bytes(field, value.as_bytes())
    }

    /// A message, which `fill` makes.
    pub fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::new();
        fill(&mut inner);
        self.bytes(field, &inner.0)
    }

    /// Packed `repeated` ones of type `uint64`, `int64` that are not negative, and so on.
    pub fn packed_varints(&mut self, field: u32, values: impl IntoIterator<Item = u64>) -> &mut Self {
        let mut inner = Vec::new();
        values.into_iter().for_each(|value| put_varint(&mut inner, value));
        self.bytes(field, &inner)
    }

    /// Packed `repeated` ones of type `fixed64`, or of type `double` as bits.
    pub fn packed_fixed64(&mut self, field: u32, values: impl IntoIterator<Item = u64>) -> &mut Self {
        let inner: Vec<u8> = values.into_iter().flat_map(u64::to_le_bytes).collect();
        self.bytes(field, &inner)
    }

    fn tag(&mut self, field: u32, wire: Wire) {
        put_varint(&mut self.0, (u64::from(field) << 3) | wire as u64);
    }
}

fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_the_encoding_has_them() {
        let check = |fill: &dyn Fn(&mut Message), expected: &[u8]| {
            let mut message = Message::new();
            fill(&mut message);
            assert_eq!(message.into_bytes(), expected);
        };
        // The first three are examples of the page above.
        check(&|m| drop(m.varint(1, 150).clone()), &[0x08, 0x96, 0x01]);
        check(&|m| drop(m.string(2, "testing").clone()), b"\x12\x07testing");
        check(
            &|m| drop(m.packed_varints(6, [3, 270, 86942]).clone()),
            &[0x32, 0x06, 0x03, 0x8e, 0x02, 0x9e, 0xa7, 0x05],
        );
        check(
            &|m| drop(m.int64(1, -2).clone()),
            &[0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        );
        check(&|m| drop(m.fixed64(2, 7).clone()), &[0x11, 7, 0, 0, 0, 0, 0, 0, 0]);
        check(&|m| drop(m.double(16, 1.0).clone()), &[0x81, 0x01, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        check(
            &|m| drop(m.message(3, |inner| drop(inner.varint(1, 150).clone())).clone()),
            &[0x1a, 0x03, 0x08, 0x96, 0x01],
        );
        check(&|m| drop(m.packed_fixed64(1, [1]).clone()), &[0x0a, 8, 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
