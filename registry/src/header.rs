//! Header fields that other hands wrote: challenges, links, ranges, and how long to wait.
//!
//! All of it is pure, takes whatever comes, and answers with nothing where there is nothing to be had.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One way to prove who one is, of a `WWW-Authenticate` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case: `basic`, `bearer`.
    pub scheme: String,
    /// Names in lower case, in the order they came.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges of one `WWW-Authenticate` field. Commas separate both challenges and their parameters: a word that
/// no `=` follows begins the next challenge. RFC 9110, 11.6.1.
pub fn challenges(field: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = field;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = split_token(rest);
        if word.is_empty() {
            // What is no word ends the field: guessing where the next challenge begins helps nobody.
            return found;
        }
        if let (Some(challenge), Some(value)) = (found.last_mut(), after_equals(after)) {
            let (value, after) = split_value(value);
            challenge.parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
            continue;
        }
        found.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
        rest = skip_token68(after);
    }
}

/// The target of the first link with the relation `next` in a `Link` field. RFC 8288.
pub fn next_link(field: &str) -> Option<&str> {
    let mut rest = field;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        // Parameters end at the next comma outside of quotes.
        let mut quoted = false;
        let end = after.find(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        let (parameters, after) = after.split_at(end.unwrap_or(after.len()));
        let is_next = |parameter: &str| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
            name.trim().eq_ignore_ascii_case("rel") && relations.any(|it| it.eq_ignore_ascii_case("next"))
        };
        if parameters.split(';').any(is_next) {
            return Some(target);
        }
        rest = after;
    }
    None
}

/// How long a `Retry-After` field asks to wait: seconds, or a date in any of HTTP's three forms. RFC 9110, 10.2.3.
pub fn retry_after(field: &str, now: SystemTime) -> Option<Duration> {
    let field = field.trim();
    if let Ok(seconds) = field.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = UNIX_EPOCH + Duration::from_secs(http_date(field)?);
    Some(at.duration_since(now).unwrap_or_default())
}

/// What a `Content-Range` field says. RFC 9110, 14.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// First byte, if any byte is sent.
    pub start: Option<u64>,
    /// Length of the whole, if it is known.
    pub total: Option<u64>,
}

/// `bytes 0-499/1234`, `bytes 0-499/*` or `bytes */1234`.
pub fn content_range(field: &str) -> Option<ContentRange> {
    let (range, total) = field.trim().strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    if range == "*" {
        return Some(ContentRange { start: None, total });
    }
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    (start <= end && total.is_none_or(|total| end < total))
        .then_some(ContentRange { start: Some(start), total })
}

/// How many bytes of an upload have arrived, by its `Range` field: `0-499`, or docker's `bytes=0-499`. Nothing yet is
/// `0-0` for docker's registry, and so is one byte: sending that one again is an error there, so it counts as nothing.
pub fn upload_range(field: &str) -> Option<u64> {
    let field = field.trim();
    let (start, end) = field.strip_prefix("bytes=").unwrap_or(field).split_once('-')?;
    let end: u64 = end.parse().ok()?;
    if start != "0" {
        return None;
    }
    if end == 0 { Some(0) } else { end.checked_add(1) }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn split_token(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// What follows an equals sign, if that is what stands here.
fn after_equals(text: &str) -> Option<&str> {
    text.trim_start_matches([' ', '\t']).strip_prefix('=').map(|rest| rest.trim_start_matches([' ', '\t']))
}

/// A token or a quoted string.
fn split_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some write values with slashes and colons without quotes.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// Passes over the credentials-like word that some schemes have in place of parameters (`Negotiate YII=`).
fn skip_token68(text: &str) -> &str {
    let word = text.trim_start_matches([' ', '\t']);
    let end = word.find(|c: char| !(c.is_ascii_alphanumeric() || "-._~+/".contains(c))).unwrap_or(word.len());
    let after = word[end..].trim_start_matches('=').trim_start_matches([' ', '\t']);
    let is_alone = end > 0 && (after.is_empty() || after.starts_with(','));
    if is_alone && text.len() > word.len() { after } else { text }
}

/// Seconds since 1970. `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split([' ', ',', '-', ':']).filter(|word| !word.is_empty()).take(9).collect();
    let (day, month, year, time) = match *words.as_slice() {
        [_, day, month, year, h, m, s, "GMT"] => (day, month, year, [h, m, s]),
        [_, month, day, h, m, s, year] => (day, month, year, [h, m, s]),
        _ => return None,
    };
    let number = |word: &str, most: u64| word.parse::<u64>().ok().filter(|number| *number <= most);
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year) = (number(day, 31)?.max(1), number(year, 9999)?);
    // Two digits: of this century, for no server answers with a date of the last one.
    let year = if year < 100 { year + 2000 } else { year.max(1970) };
    let [hours, minutes, seconds] = time;
    let seconds = number(hours, 23)? * 3600 + number(minutes, 59)? * 60 + number(seconds, 60)?;
    Some(days(year, month, day) * 86_400 + seconds)
}

/// Days from 1970-01-01 to this one.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let before = |year: u64| year * 365 + (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    const LENGTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: u64 = LENGTHS.iter().zip(1..month).map(|(length, _)| length).sum();
    before(year) - before(1970) + months + u64::from(month > 2 && is_leap(year)) + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_told_from_their_parameters() {
        let check = |field: &str, expect: &str| {
            let found: Vec<String> = challenges(field)
                .iter()
                .map(|it| {
                    let words: Vec<String> =
                        it.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    format!("{}[{}]", it.scheme, words.join("|"))
                })
                .collect();
            assert_eq!(found.join(" "), expect, "{field}");
        };
        check(r#"Basic realm="a b""#, "basic[realm=a b]");
        check(
            r#"Bearer realm="https://a/token",service="r",scope="repository:x:pull,push""#,
            "bearer[realm=https://a/token|service=r|scope=repository:x:pull,push]",
        );
        check(r#"BEARER Realm = "a" , Service=b"#, "bearer[realm=a|service=b]");
        check(r#"Basic realm="x", Bearer realm="y",scope=z"#, "basic[realm=x] bearer[realm=y|scope=z]");
        check("Negotiate, Basic realm=x", "negotiate[] basic[realm=x]");
        check("Negotiate YII/a+b==, Basic realm=x", "negotiate[] basic[realm=x]");
        check(r#"Bearer realm="a\"b\\", x="open"#, r#"bearer[realm=a"b\|x=open]"#);
        check("Bearer realm=https://a:5/t,service=b", "bearer[realm=https://a:5/t|service=b]");
        check(",, ,Basic", "basic[]");
        check("", "");
        check("\"", "");
        check("é", "");
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        let check = |field: &str, expect: Option<&str>| assert_eq!(next_link(field), expect, "{field}");
        check(r#"</v2/_catalog?last=b&n=2>; rel="next""#, Some("/v2/_catalog?last=b&n=2"));
        check(r#"<a>; rel=prev, <b>; title="x, <c>; y"; REL = "last NEXT""#, Some("b"));
        check("<a>; rel=previous", None);
        check("<a", None);
        check("a; rel=next", None);
        check("", None);
    }

    #[test]
    fn waiting_is_in_seconds_or_until_a_date() {
        // 1994-11-06 08:49:37
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 5);
        let check = |field: &str, expect: Option<u64>| {
            assert_eq!(retry_after(field, now), expect.map(Duration::from_secs), "{field}");
        };
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(5));
        check("Sun Nov  6 08:49:37 1994", Some(5));
        check("Sun, 06 Nov 1994 08:49:30 GMT", Some(0));
        check("Sunday, 06-Nov-26 08:49:37 GMT", Some(1_793_954_977 - 784_111_772));
        check("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800 - 784_111_772));
        check("-1", None);
        check("99999999999999999999", None);
        check("soon", None);
        check("Sun, 99 Nov 1994 08:49:37 GMT", None);
    }

    #[test]
    fn ranges_are_read_strictly() {
        let range = |start, total| Some(ContentRange { start, total });
        assert_eq!(content_range("bytes 5-9/10"), range(Some(5), Some(10)));
        assert_eq!(content_range("bytes 5-9/*"), range(Some(5), None));
        assert_eq!(content_range("bytes */10"), range(None, Some(10)));
        for bad in ["", "bytes", "bytes 5-4/10", "bytes 5-10/10", "bytes -5/10", "lines 0-1/2", "bytes 0-1"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(upload_range("0-499"), Some(500));
        assert_eq!(upload_range("bytes=0-499"), Some(500));
        assert_eq!(upload_range("0-0"), Some(0));
        for bad in ["", "5-9", "0-", "-", "0-18446744073709551615"] {
            assert_eq!(upload_range(bad), None, "{bad}");
        }
    }
}
