//! Which form a client gets.

/// A form of text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// That of Prometheus, version 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that a header field `Accept` likes best; that of Prometheus if it likes neither. RFC 9110, 12.5.1.
    #[must_use]
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (0, Self::Prometheus);
        for (weight, format) in accept.split(',').filter_map(range) {
            if weight > best.0 {
                best = (weight, format);
            }
        }
        best.1
    }

    /// What the header field `Content-Type` says.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What one range of media types means here, and its weight in thousandths.
fn range(text: &str) -> Option<(u32, Format)> {
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next()?.to_ascii_lowercase();
    let (mut weight, mut version) = (1000, None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => weight = thousandths(value.trim())?,
            "version" => version = Some(value.trim().trim_matches('"')),
            _ => {}
        }
    }
    let format = match (kind.as_str(), version) {
        ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => Format::OpenMetrics,
        ("text/plain" | "text/*" | "*/*", None | Some("0.0.4")) => Format::Prometheus,
        _ => return None,
    };
    Some((weight, format))
}

fn thousandths(quality: &str) -> Option<u32> {
    let quality: f64 = quality.parse().ok()?;
    if !(0.0..=1.0).contains(&quality) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1000")]
    let weight = (quality * 1000.0) as u32;
    Some(weight)
}

#[cfg(test)]
mod tests {
    use super::Format::{self, OpenMetrics, Prometheus};

    #[test]
    fn the_form_is_what_is_liked_best() {
        let check =
            |accept: &str, expected: Format| assert_eq!(Format::negotiate(accept), expected, "{accept}");
        check("", Prometheus);
        check("*/*", Prometheus);
        check("text/html", Prometheus);
        check("application/openmetrics-text", OpenMetrics);
        check("application/openmetrics-text; version=1.0.0; charset=utf-8", OpenMetrics);
        check("application/openmetrics-text; version=2.0.0", Prometheus);
        check("application/openmetrics-text; q=0.4, text/plain; q=0.5", Prometheus);
        check(
            "Application/OpenMetrics-Text;version=\"1.0.0\";Q=0.9,text/plain;version=0.0.4;q=0.5",
            OpenMetrics,
        );
        check("application/openmetrics-text;q=0,text/plain;q=0", Prometheus);
        check("application/openmetrics-text;q=much", Prometheus);
        // Of Prometheus 2 and 3.
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OpenMetrics,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OpenMetrics,
        );
        check("text/plain;version=0.0.4", Prometheus);
    }
}
