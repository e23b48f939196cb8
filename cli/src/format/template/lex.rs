//! Cuts a template into tokens: the text around actions, and the words in them.

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Text outside of actions, trimmed where an action asks for it.
    Text(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// `.Name`.
    Field(String),
    /// `$` or `$name`.
    Variable(String),
    /// A function or keyword.
    Word(String),
    /// A quoted string, unquoted.
    Str(String),
    /// A number or the code of a character.
    Number(serde_json::Number),
    Dot,
    Pipe,
    Comma,
    ParenOpen,
    ParenClose,
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
    /// A character that means nothing.
    Other,
    /// Nothing that can be understood, and why; the last token.
    Error(String),
    End,
}

/// A token and where it stands, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// White space stands before it.
    pub(super) spaced: bool,
}

const OPEN: &str = "{{";
const CLOSE: &str = "}}";

/// The tokens of `text`; the last one is [`Kind::End`] or [`Kind::Error`].
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, spaced: false, parens: 0, found: Vec::new() };
    if let Err((start, message)) = lexer.text() {
        lexer.found.push(Token { kind: Kind::Error(message), start, end: start, spaced: false });
    }
    lexer.found
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    spaced: bool,
    parens: u32,
    found: Vec<Token>,
}

/// Where it went wrong, and why.
type Stop = (usize, String);

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: Kind, start: usize) {
        self.found.push(Token { kind, start, end: self.at, spaced: self.spaced });
        self.spaced = false;
    }

    /// Everything: text and actions in turn.
    fn text(&mut self) -> Result<(), Stop> {
        let mut trim = false;
        loop {
            let start = self.at;
            let open = self.rest().find(OPEN);
            let until = open.map_or(self.text.len(), |open| start + open);
            let mut text = &self.text[start..until];
            if trim {
                text = text.trim_start_matches(space);
            }
            let trims_before = open.is_some() && trims(&self.text[until + OPEN.len()..]);
            if trims_before {
                text = text.trim_end_matches(space);
            }
            let text = text.to_owned();
            self.at = until;
            if !text.is_empty() {
                self.push(Kind::Text(text), start);
            }
            if open.is_none() {
                self.push(Kind::End, until);
                return Ok(());
            }
            self.at += OPEN.len() + if trims_before { 2 } else { 0 };
            trim = if self.rest().starts_with("/*") { self.comment()? } else { self.action(until)? };
        }
    }

    /// The rest of a comment; whether the text after it is to be trimmed.
    fn comment(&mut self) -> Result<bool, Stop> {
        let Some(end) = self.rest().find("*/") else {
            return Err((self.at, "unclosed comment".to_owned()));
        };
        self.at += end + 2;
        match closing(self.rest()) {
            Some((length, trim)) => {
                self.at += length;
                Ok(trim)
            }
            None => Err((self.at, "comment ends before closing delimiter".to_owned())),
        }
    }

    /// The rest of an action that began at `open`; whether the text after it is to be trimmed.
    fn action(&mut self, open: usize) -> Result<bool, Stop> {
        self.push(Kind::Open, open);
        self.parens = 0;
        loop {
            // The last space may be the first character of what closes the action and trims.
            let spaces = self.rest().len() - self.rest().trim_start_matches(space).len();
            self.at += spaces.saturating_sub(1);
            if let Some((length, trim)) = closing(self.rest()) {
                if self.parens > 0 {
                    return Err((self.at, "unclosed left paren".to_owned()));
                }
                let start = self.at;
                self.at += length;
                self.push(Kind::Close, start);
                return Ok(trim);
            }
            if spaces > 0 {
                self.at += 1;
                self.spaced = true;
                continue;
            }
            self.word()?;
        }
    }

    /// One word of an action.
    fn word(&mut self) -> Result<(), Stop> {
        let start = self.at;
        let Some(first) = self.rest().chars().next() else {
            return Err((start, "unclosed action".to_owned()));
        };
        self.at += first.len_utf8();
        match first {
            '|' => self.push(Kind::Pipe, start),
            ',' => self.push(Kind::Comma, start),
            '=' => self.push(Kind::Assign, start),
            ':' if self.rest().starts_with('=') => {
                self.at += 1;
                self.push(Kind::Declare, start);
            }
            ':' => return Err((start, "expected :=".to_owned())),
            '(' => {
                self.parens += 1;
                self.push(Kind::ParenOpen, start);
            }
            ')' => {
                self.parens =
                    self.parens.checked_sub(1).ok_or_else(|| (start, "unexpected right paren".to_owned()))?;
                self.push(Kind::ParenClose, start);
            }
            '"' => self.quoted(start)?,
            '`' => self.raw(start)?,
            '\'' => self.character(start)?,
            '.' if !self.rest().starts_with(|c: char| c.is_ascii_digit()) => self.field(start)?,
            '$' => {
                let name = self.name();
                self.terminated(start)?;
                self.push(Kind::Variable(format!("${name}")), start);
            }
            '.' | '+' | '-' | '0'..='9' => self.number(start)?,
            first if is_letter(first) => {
                self.at = start;
                let name = self.name();
                self.terminated(start)?;
                self.push(Kind::Word(name), start);
            }
            other if other.is_ascii_graphic() => self.push(Kind::Other, start),
            other => {
                return Err((
                    start,
                    format!("unrecognized character in action: U+{:04X} {other:?}", u32::from(other)),
                ));
            }
        }
        Ok(())
    }

    /// Letters, digits and underscores from here on.
    fn name(&mut self) -> String {
        let rest = self.rest();
        let length = rest.find(|c: char| !is_letter(c) && !c.is_numeric()).unwrap_or(rest.len());
        let name = rest[..length].to_owned();
        self.at += length;
        name
    }

    /// Names end where something else can begin.
    fn terminated(&self, start: usize) -> Result<(), Stop> {
        let next = self.rest().chars().next();
        match next {
            None | Some('.' | ',' | '|' | ':' | ')' | '(' | '=') => Ok(()),
            Some(c) if space(c) || self.rest().starts_with(CLOSE) => Ok(()),
            Some(c) => Err((start, format!("bad character U+{:04X} {c:?}", u32::from(c)))),
        }
    }

    fn field(&mut self, start: usize) -> Result<(), Stop> {
        let name = self.name();
        self.terminated(start)?;
        self.push(if name.is_empty() { Kind::Dot } else { Kind::Field(name) }, start);
        Ok(())
    }

    fn raw(&mut self, start: usize) -> Result<(), Stop> {
        let Some(end) = self.rest().find('`') else {
            return Err((start, "unterminated raw quoted string".to_owned()));
        };
        let text = self.rest()[..end].to_owned();
        self.at += end + 1;
        self.push(Kind::Str(text), start);
        Ok(())
    }

    fn quoted(&mut self, start: usize) -> Result<(), Stop> {
        let mut text = Vec::new();
        loop {
            match self.unquoted('"') {
                Unquoted::Char(c) => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                Unquoted::Byte(byte) => text.push(byte),
                Unquoted::End => break,
                Unquoted::Open => return Err((start, "unterminated quoted string".to_owned())),
                Unquoted::Bad => return Err((start, "invalid syntax".to_owned())),
            }
        }
        self.push(Kind::Str(String::from_utf8_lossy(&text).into_owned()), start);
        Ok(())
    }

    fn character(&mut self, start: usize) -> Result<(), Stop> {
        let mut codes = Vec::new();
        loop {
            match self.unquoted('\'') {
                Unquoted::Char(c) => codes.push(u32::from(c)),
                Unquoted::Byte(byte) => codes.push(u32::from(byte)),
                Unquoted::Bad => codes.extend([0, 0]),
                Unquoted::End => break,
                Unquoted::Open => return Err((start, "unterminated character constant".to_owned())),
            }
        }
        let [code] = *codes else {
            return Err((start, format!("malformed character constant: {}", &self.text[start..self.at])));
        };
        self.push(Kind::Number(code.into()), start);
        Ok(())
    }

    /// The next character of a string that ends with `quote`.
    fn unquoted(&mut self, quote: char) -> Unquoted {
        let Some(c) = self.next().filter(|c| *c != '\n') else { return Unquoted::Open };
        if c == quote {
            return Unquoted::End;
        }
        if c != '\\' {
            return Unquoted::Char(c);
        }
        let Some(escape) = self.next() else { return Unquoted::Open };
        let plain = match escape {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' => '\\',
            c if c == quote => c,
            'x' => return self.code(2, 16).and_then(|code| u8::try_from(code).ok()).into(),
            '0'..='7' => {
                self.at -= 1;
                return self.code(3, 8).and_then(|code| u8::try_from(code).ok()).into();
            }
            'u' | 'U' => {
                let digits = if escape == 'u' { 4 } else { 8 };
                let c = self.code(digits, 16).and_then(char::from_u32);
                return c.map_or(Unquoted::Bad, Unquoted::Char);
            }
            _ => return Unquoted::Bad,
        };
        Unquoted::Char(plain)
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest().chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// A number of exactly so many digits.
    fn code(&mut self, digits: usize, radix: u32) -> Option<u32> {
        let text = self.rest().get(..digits).filter(|text| text.chars().all(|c| c.is_digit(radix)))?;
        let code = u32::from_str_radix(text, radix).ok();
        self.at += digits;
        code
    }

    fn number(&mut self, start: usize) -> Result<(), Stop> {
        let rest = &self.text[start..];
        let is_hex = {
            let unsigned = rest.trim_start_matches(['+', '-']);
            unsigned.starts_with("0x") || unsigned.starts_with("0X")
        };
        let signs_after = |before: Option<char>| !is_hex && matches!(before, Some('e' | 'E'));
        let mut before = None;
        let length = rest
            .char_indices()
            .find(|(at, c)| {
                let belongs = c.is_alphanumeric()
                    || matches!(c, '.' | '_')
                    || (matches!(c, '+' | '-') && (*at == 0 || signs_after(before)));
                before = Some(*c);
                !belongs
            })
            .map_or(rest.len(), |(at, _)| at);
        let text = &rest[..length];
        let number = parsed_number(text)
            .ok_or_else(|| (start, format!("bad number syntax: {}", serde_json::json!(text))))?;
        self.at = start + length;
        self.push(Kind::Number(number), start);
        Ok(())
    }
}

/// What [`Lexer::unquoted`] has found.
enum Unquoted {
    Char(char),
    Byte(u8),
    /// The closing quote.
    End,
    /// No closing quote before the end of the line.
    Open,
    /// No such escape.
    Bad,
}

impl From<Option<u8>> for Unquoted {
    fn from(byte: Option<u8>) -> Self {
        byte.map_or(Self::Bad, Self::Byte)
    }
}

/// A number as Go writes it: decimal, `0x`, `0o`, `0b`, octal after a zero, with underscores, or a float.
fn parsed_number(text: &str) -> Option<serde_json::Number> {
    let digits = text.replace('_', "");
    let (negative, unsigned) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let lower = unsigned.to_ascii_lowercase();
    let radix = |prefix: &str, radix| {
        let rest = lower.strip_prefix(prefix)?;
        if rest.starts_with(['+', '-']) { None } else { i64::from_str_radix(rest, radix).ok() }
    };
    let octal = || if lower.len() > 1 { radix("0", 8) } else { None };
    let decimal = || {
        let is_decimal =
            lower.bytes().all(|b| b.is_ascii_digit()) && (lower.len() == 1 || !lower.starts_with('0'));
        if is_decimal { lower.parse().ok() } else { None }
    };
    let whole = radix("0x", 16).or_else(|| radix("0b", 2)).or_else(|| radix("0o", 8));
    if let Some(number) = whole.or_else(octal).or_else(decimal) {
        return Some(if negative { -number } else { number }.into());
    }
    let is_float = lower.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && lower.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'+' | b'-'));
    let float: f64 = if is_float { lower.parse().ok()? } else { return None };
    serde_json::Number::from_f64(if negative { -float } else { float })
}

/// How long the end of an action is that begins here, and whether it trims what follows.
fn closing(rest: &str) -> Option<(usize, bool)> {
    let trimming = rest.strip_prefix(|c: char| space(c)).and_then(|rest| rest.strip_prefix('-'));
    if trimming.is_some_and(|rest| rest.starts_with(CLOSE)) {
        return Some((2 + CLOSE.len(), true));
    }
    rest.starts_with(CLOSE).then_some((CLOSE.len(), false))
}

/// Whether an action that begins here trims the text before it.
fn trims(action: &str) -> bool {
    action.strip_prefix('-').is_some_and(|rest| rest.starts_with(space))
}

const fn space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_letter(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}
