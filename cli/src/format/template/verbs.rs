//! `printf`, by Go's rules: a verb that does not fit its argument says so in the text.

use serde_json::Value;

use super::print;

/// The widest field and the most digits; Go has a million.
const WIDTH_MAX: usize = 10_000;

/// Formats `args` by `format`.
///
/// Errors: the text becomes longer than `max_bytes`.
pub(super) fn printf(format: &str, args: &[&Value], max_bytes: usize) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if out.len() > max_bytes {
            return Err("too much text".into());
        }
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| "+-# 0".contains(*c)) {
            verb.flag(flag);
        }
        let (width, is_fit) = number(&mut chars);
        verb.width = width;
        if !is_fit {
            out.push_str("%!(BADWIDTH)");
        }
        if chars.next_if_eq(&'.').is_some() {
            let (precision, is_fit) = number(&mut chars);
            verb.precision = Some(precision);
            if !is_fit {
                out.push_str("%!(BADPREC)");
                verb.precision = None;
            }
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match args.get(next) {
                None => out.push_str(&format!("%!{letter}(MISSING)")),
                Some(arg) => {
                    next += 1;
                    verb.write(letter, arg, &mut out);
                }
            },
        }
    }
    if next < args.len() {
        let extra: Vec<String> = args[next..].iter().map(|arg| typed(arg)).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Ok(out)
}

/// Digits from here on, and whether they are a width that is allowed.
fn number(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> (usize, bool) {
    let mut number = 0_usize;
    while let Some(digit) = chars.next_if(char::is_ascii_digit).and_then(|c| c.to_digit(10)) {
        number = number.saturating_mul(10).saturating_add(digit as usize);
    }
    if number > WIDTH_MAX { (0, false) } else { (number, true) }
}

/// `int=3`, as Go tells of what it could not format.
fn typed(arg: &Value) -> String {
    if arg.is_null() { "<nil>".into() } else { format!("{}={}", print::kind(arg), print::text(arg)) }
}

#[derive(Debug, Default, Clone)]
struct Verb {
    plus: bool,
    left: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl Verb {
    const fn flag(&mut self, flag: char) {
        match flag {
            '+' => self.plus = true,
            '-' => self.left = true,
            '#' => self.sharp = true,
            ' ' => self.space = true,
            _ => self.zero = true,
        }
    }

    fn write(&self, letter: char, arg: &Value, out: &mut String) {
        match arg {
            _ if letter == 'T' => self.padded(print::kind(arg), false, out),
            Value::Array(list) => {
                out.push('[');
                for (at, item) in list.iter().enumerate() {
                    out.push_str(if at > 0 { " " } else { "" });
                    self.write(letter, item, out);
                }
                out.push(']');
            }
            Value::Object(map) => {
                out.push_str("map[");
                for (at, (key, item)) in map.iter().enumerate() {
                    out.push_str(if at > 0 { " " } else { "" });
                    self.write(letter, &Value::from(key.as_str()), out);
                    out.push(':');
                    self.write(letter, item, out);
                }
                out.push(']');
            }
            arg => match self.scalar(letter, arg) {
                Some(text) => self.padded(&text, arg.is_number(), out),
                None => out.push_str(&format!("%!{letter}({})", typed(arg))),
            },
        }
    }

    /// The text of a value that is no collection; nothing if the verb does not fit.
    fn scalar(&self, letter: char, arg: &Value) -> Option<String> {
        match (letter, arg) {
            ('v', Value::String(text)) if !self.sharp => Some(self.cut(text)),
            ('v', Value::String(text)) => Some(print::quoted(text)),
            ('v', Value::Number(_)) if arg.is_f64() => self.float('g', arg.as_f64()?),
            ('v', Value::Number(_)) => self.integer('d', arg),
            ('v', _) | ('t', Value::Bool(_)) => Some(print::text(arg)),
            ('s', Value::String(text)) => Some(self.cut(text)),
            ('q', Value::String(text)) => Some(print::quoted(&self.cut(text))),
            ('x' | 'X', Value::String(text)) => {
                let hex = |byte| if letter == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") };
                Some(text.bytes().map(hex).collect())
            }
            (_, Value::Number(_)) if arg.is_f64() => self.float(letter, arg.as_f64()?),
            (_, Value::Number(_)) => self.integer(letter, arg),
            _ => None,
        }
    }

    /// As many characters as the precision says.
    fn cut(&self, text: &str) -> String {
        self.precision.map_or_else(|| text.to_owned(), |precision| text.chars().take(precision).collect())
    }

    fn integer(&self, letter: char, arg: &Value) -> Option<String> {
        let number = arg.as_i64().map(i128::from).or_else(|| arg.as_u64().map(i128::from))?;
        let char = || u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
        let size = number.unsigned_abs();
        let (prefix, digits) = match letter {
            'd' => ("", format!("{size}")),
            'b' => (if self.sharp { "0b" } else { "" }, format!("{size:b}")),
            'o' => (if self.sharp { "0" } else { "" }, format!("{size:o}")),
            'O' => ("0o", format!("{size:o}")),
            'x' => (if self.sharp { "0x" } else { "" }, format!("{size:x}")),
            'X' => (if self.sharp { "0X" } else { "" }, format!("{size:X}")),
            'c' => return Some(char().into()),
            'q' => {
                let mut quoted = String::from("'");
                print::escape(char(), '\'', &mut quoted);
                return Some(quoted + "'");
            }
            'U' => return Some(format!("U+{number:04X}")),
            _ => return None,
        };
        let least = self.precision.unwrap_or(0);
        Some(format!("{}{prefix}{digits:0>least$}", self.sign(number < 0)))
    }

    fn float(&self, letter: char, number: f64) -> Option<String> {
        let size = number.abs();
        let digits = match letter {
            'f' | 'F' => format!("{size:.*}", self.precision.unwrap_or(6)),
            'e' => print::with_exponent(&format!("{size:.*e}", self.precision.unwrap_or(6))),
            'E' => print::with_exponent(&format!("{size:.*e}", self.precision.unwrap_or(6))).to_uppercase(),
            'g' | 'G' => match self.precision {
                None => print::shortest(size),
                Some(precision) => significant(size, precision.max(1)),
            },
            _ => return None,
        };
        Some(format!("{}{digits}", self.sign(number.is_sign_negative())))
    }

    const fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        }
    }

    fn padded(&self, text: &str, is_number: bool, out: &mut String) {
        let missing = self.width.saturating_sub(text.chars().count());
        if self.left {
            out.push_str(text);
            out.push_str(&" ".repeat(missing));
        } else if self.zero && (is_number || self.precision.is_none()) {
            let signed = usize::from(is_number && text.starts_with(['-', '+', ' ']));
            out.push_str(&text[..signed]);
            out.push_str(&"0".repeat(missing));
            out.push_str(&text[signed..]);
        } else {
            out.push_str(&" ".repeat(missing));
            out.push_str(text);
        }
    }
}

/// So many significant digits, without zeros at the end.
fn significant(size: f64, digits: usize) -> String {
    let scientific = format!("{size:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.into()
        }
    };
    let places = i32::try_from(digits).unwrap_or(i32::MAX).saturating_sub(1 + exponent);
    if exponent < -4 || places < 0 {
        return print::with_exponent(&format!("{}e{exponent}", trimmed(mantissa)));
    }
    trimmed(&format!("{size:.*}", usize::try_from(places).unwrap_or(0)))
}
