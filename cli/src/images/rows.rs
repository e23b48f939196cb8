//! What `skiff images`, `skiff history` and `skiff system df` show of an image, in docker's words. Pure.

use serde_json::{Value, json};
use skiff_engine::log::stamp::rfc3339;

use super::filter::repository;
use crate::format::units::{date, decimal, ellipsis, span};

/// The usual table.
pub(super) const USUAL: &str =
    "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}";

/// The same with `--digests`.
pub(super) const WITH_DIGESTS: &str = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}";

/// The table of `history`.
pub(super) const HISTORY: &str = "{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";

/// What stands where there is no name.
const NONE: &str = "<none>";

/// What is shown of the command that made a layer unless all of it is wanted, in characters.
const CREATED_BY_CHARACTERS: usize = 45;

/// How a list is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) no_trunc: bool,
    /// A row for each digest.
    pub(super) digests: bool,
    /// ns since 1970.
    pub(super) now_ns: u64,
}

/// What the fields of an image's row are called above their columns.
pub(super) fn names() -> Value {
    json!({
        "ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE",
        "UniqueSize": "UNIQUE SIZE", "VirtualSize": "VIRTUAL SIZE",
    })
}

/// What the fields of a layer's row are called.
pub(super) fn history_names() -> Value {
    json!({
        "ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE",
        "Comment": "COMMENT",
    })
}

/// The rows of an image that `image` describes: one for each of its names.
pub(super) fn rows(image: &Value, style: Style) -> Vec<Value> {
    let list = |field: &str| -> Vec<&str> {
        image[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let (tags, digests) = (list("RepoTags"), list("RepoDigests"));
    let digest_of =
        |name: &str| name.split_once('@').map_or(NONE.to_owned(), |(_, digest)| digest.to_owned());
    let mut rows = Vec::new();
    for name in &tags {
        let repository = repository(name);
        let tag = name[repository.len()..].trim_start_matches(':');
        let same: Vec<_> = digests.iter().filter(|it| self::repository(it) == repository).collect();
        match same.as_slice() {
            same @ [_, ..] if style.digests => {
                rows.extend(same.iter().map(|it| row(image, repository, tag, &digest_of(it), style)));
            }
            _ => rows.push(row(image, repository, tag, NONE, style)),
        }
    }
    let is_tagged = |name: &str| tags.iter().any(|tag| repository(tag) == repository(name));
    let mut before = None;
    for name in digests.iter().filter(|name| !is_tagged(name)) {
        let repository = repository(name);
        if style.digests {
            rows.push(row(image, repository, NONE, &digest_of(name), style));
        } else if before != Some(repository) {
            rows.push(row(image, repository, NONE, NONE, style));
        }
        before = Some(repository);
    }
    if rows.is_empty() {
        rows.push(row(image, NONE, NONE, NONE, style));
    }
    rows
}

fn row(image: &Value, repository: &str, tag: &str, digest: &str, style: Style) -> Value {
    let size = |field: &str| match image[field].as_u64() {
        Some(bytes) => decimal(bytes),
        None => "N/A".to_owned(),
    };
    let created_ns = image["CreatedNs"].as_u64();
    json!({
        "ID": id(image["Id"].as_str().unwrap_or_default(), style.no_trunc),
        "Repository": repository,
        "Tag": tag,
        "Digest": digest,
        "CreatedSince": created_ns.map(|at| format!("{} ago", span(style.now_ns, at))).unwrap_or_default(),
        "CreatedAt": created_ns.map_or_else(|| "N/A".to_owned(), date),
        "Size": size("Size"),
        "VirtualSize": size("Size"),
        "SharedSize": size("SharedSize"),
        "UniqueSize": size("UniqueSize"),
        "Containers": image["Containers"].as_u64().map_or_else(|| "N/A".to_owned(), |n| n.to_string()),
    })
}

/// An id, in full with `sha256:`, or its first twelve digits.
pub(super) fn id(id: &str, in_full: bool) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    if in_full { id } else { digits.get(..12).unwrap_or(digits) }
}

/// The row of `step` in an image's history.
pub(super) fn step(step: &Value, human: bool, style: Style) -> Value {
    let text = |field: &str| step[field].as_str().unwrap_or_default();
    let by = text("CreatedBy").replace(['\t', '\n'], " ");
    let created_ns = step["CreatedNs"].as_u64();
    let at = created_ns.map(|at| {
        let text = rfc3339(at);
        format!("{}Z", text.get(..19).unwrap_or_default())
    });
    let since = created_ns.map(|at| format!("{} ago", span(style.now_ns, at)));
    let bytes = step["Size"].as_u64().unwrap_or(0);
    json!({
        "ID": match text("Id") { missing @ "<missing>" => missing, whole => id(whole, style.no_trunc) },
        "CreatedAt": at.clone().unwrap_or_default(),
        "CreatedSince": if human { since } else { at }.unwrap_or_default(),
        "CreatedBy": if style.no_trunc { by } else { ellipsis(&by, CREATED_BY_CHARACTERS) },
        "Size": if human { decimal(bytes) } else { bytes.to_string() },
        "Comment": text("Comment"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { no_trunc: false, digests: false, now_ns: 3_000_000_000 };

    fn image(tags: &[&str], digests: &[&str]) -> Value {
        json!({
            "Id": "sha256:0123456789abcdef", "RepoTags": tags, "RepoDigests": digests, "CreatedNs": 1_000_000_000_u64,
            "Size": 72_900_000,
        })
    }

    fn shown(image: &Value, style: Style) -> Vec<String> {
        let show = |row: &Value| format!("{} {} {}", row["Repository"], row["Tag"], row["Digest"]);
        rows(image, style).iter().map(|row| show(row).replace('"', "")).collect()
    }

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let check = |tags: &[&str], digests: &[&str], plain: &[&str], with_digests: &[&str]| {
            let image = image(tags, digests);
            assert_eq!(shown(&image, STYLE), plain, "{tags:?} {digests:?}");
            let style = Style { digests: true, ..STYLE };
            assert_eq!(shown(&image, style), with_digests, "{tags:?} {digests:?}");
        };
        let none = "<none> <none> <none>";
        check(&[], &[], &[none], &[none]);
        check(&["a:1", "h:5/b:2"], &[], &["a 1 <none>", "h:5/b 2 <none>"], &["a 1 <none>", "h:5/b 2 <none>"]);
        check(
            &["a:1"],
            &["a@d:x", "b@d:y"],
            &["a 1 <none>", "b <none> <none>"],
            &["a 1 d:x", "b <none> d:y"],
        );
        check(&[], &["b@d:y", "b@d:z"], &["b <none> <none>"], &["b <none> d:y", "b <none> d:z"]);
    }

    #[test]
    fn a_row_has_docker_s_words() {
        let row = |style| rows(&image(&["a:1"], &[]), style).remove(0);
        let short = row(STYLE);
        assert_eq!((&short["ID"], &short["Size"]), (&"0123456789ab".into(), &"72.9MB".into()));
        assert_eq!((&short["CreatedSince"], &short["Containers"]), (&"2 seconds ago".into(), &"N/A".into()));
        assert_eq!(short["CreatedAt"], "1970-01-01 00:00:01 +0000 UTC");
        assert_eq!(row(Style { no_trunc: true, ..STYLE })["ID"], "sha256:0123456789abcdef");
        let whole = rows(&json!({"Id": "x", "RepoTags": []}), STYLE).remove(0);
        assert_eq!((&whole["CreatedSince"], &whole["Size"]), (&"".into(), &"N/A".into()));
        let all = names();
        assert!(short.as_object().expect("a row").keys().all(|field| all.get(field).is_some()));
    }

    #[test]
    fn steps_are_shown_for_people_or_in_figures() {
        let by = format!("RUN\t{}", "x".repeat(60));
        let step = json!({"Id": "<missing>", "CreatedNs": 1_000_000_000_u64, "CreatedBy": by, "Size": 1500, "Comment": "c"});
        let human = super::step(&step, true, STYLE);
        assert_eq!((&human["ID"], &human["Size"]), (&"<missing>".into(), &"1.5kB".into()));
        assert_eq!(human["CreatedSince"], "2 seconds ago");
        let shown = human["CreatedBy"].as_str().expect("text");
        assert!(shown.starts_with("RUN x") && shown.ends_with('…') && shown.chars().count() == 45, "{shown}");
        let plain = super::step(&step, false, Style { no_trunc: true, ..STYLE });
        assert_eq!(
            (&plain["CreatedSince"], &plain["Size"]),
            (&"1970-01-01T00:00:01Z".into(), &"1500".into())
        );
        assert_eq!(plain["CreatedBy"].as_str().map(str::len), Some(64));
    }
}
