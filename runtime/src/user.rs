//! Users and groups by name, as docker reads them from the container's own `/etc/passwd` and `/etc/group`.

use crate::Error;

/// Who the container's program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups: the primary one first (a file that denies its group must deny it here too,
    /// CVE-2022-36109), then those of the group file, then those asked for.
    pub groups: Vec<u32>,
    /// Home directory, `/` if the user has no entry.
    pub home: String,
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Finds who `user` (`user[:group]`, each a name or a number, empty for root) and the names or numbers in
/// `group_add` are. passwd(5), group(5); lines that are not in their form are passed over.
///
/// A number needs no entry. A user given without a group has the groups that list it; one given with a group has
/// that one only.
pub fn resolve(user: &str, group_add: &[String], passwd: &str, group: &str) -> Result<Identity, Error> {
    let (user, group_name) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let entry = find_user(user, passwd);
    let (uid, default_gid) = match &entry {
        Some(entry) => (entry.uid, entry.gid),
        None => (number(user).ok_or_else(|| missing("user", user, "passwd"))?, 0),
    };
    let gid = match group_name {
        Some(name) if !name.is_empty() => group_id(name, group)?,
        _ => default_gid,
    };
    let mut groups = vec![gid];
    if group_name.is_none_or(str::is_empty)
        && let Some(entry) = &entry
    {
        groups.extend(groups_of(group).filter(|group| lists(group, entry.name)).map(|group| group.gid));
    }
    for name in group_add {
        groups.push(group_id(name, group)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    let home = entry.map_or("", |entry| entry.home);
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    Ok(Identity { uid, gid, groups, home })
}

/// The home directory of `uid`; `/` if there is no entry, or an empty one.
pub(crate) fn home_of(uid: u32, passwd: &str) -> &str {
    users(passwd)
        .find(|entry| entry.uid == uid)
        .map(|entry| entry.home)
        .filter(|home| !home.is_empty())
        .unwrap_or("/")
}

/// The entry of `user`, by name first, as docker has it, then by number.
fn find_user<'a>(user: &str, passwd: &'a str) -> Option<User<'a>> {
    let by_number = number(user);
    users(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| users(passwd).find(|entry| Some(entry.uid) == by_number))
}

fn group_id(name: &str, group: &str) -> Result<u32, Error> {
    groups_of(group)
        .find(|entry| entry.name == name)
        .map(|entry| entry.gid)
        .or_else(|| number(name))
        .ok_or_else(|| missing("group", name, "group"))
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(User { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    })
}

fn groups_of(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some(Group { name, gid: fields.nth(1)?.parse().ok()?, members: fields.next().unwrap_or("") })
    })
}

fn lists(group: &Group<'_>, user: &str) -> bool {
    group.members.split(',').any(|member| member == user)
}

/// Ids are at most 2³¹−1, as docker and runc have it.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= i32::MAX.cast_unsigned())
}

fn missing(kind: &str, name: &str, file: &str) -> Error {
    Error::Option(format!("unable to find {kind} {name}: no matching entries in {file} file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nweb:x:33:34:www:/srv:/bin/sh\n1000:x:7:7::/seven:\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nadm:x:4:web,root\nlog:x:5:web\n";

    fn check(user: &str, add: &[&str], expect: Result<(u32, u32, &[u32], &str), &str>) {
        let add: Vec<String> = add.iter().map(ToString::to_string).collect();
        let found = resolve(user, &add, PASSWD, GROUP);
        match (found, expect) {
            (Ok(found), Ok((uid, gid, groups, home))) => {
                let expect = Identity { uid, gid, groups: groups.to_vec(), home: home.into() };
                assert_eq!(found, expect, "{user}");
            }
            (Err(error), Err(text)) => assert_eq!(error.to_string(), text),
            (found, expect) => panic!("{user}: {found:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", &[], Ok((0, 0, &[0, 4], "/root")));
        check("web", &[], Ok((33, 34, &[34, 4, 5], "/srv")));
        check("33", &[], Ok((33, 34, &[34, 4, 5], "/srv")));
        check("web:adm", &[], Ok((33, 4, &[4], "/srv")));
        check("web:99", &["log", "4", "99"], Ok((33, 99, &[99, 5, 4], "/srv")));
        check("4711", &[], Ok((4711, 0, &[0], "/")));
        check("4711:12", &[], Ok((4711, 12, &[12], "/")));
        check(":log", &[], Ok((0, 5, &[5], "/root")));
    }

    #[test]
    fn a_name_made_of_digits_comes_before_the_number() {
        check("1000", &[], Ok((7, 7, &[7], "/seven")));
    }

    #[test]
    fn unknown_names_are_errors() {
        check("nobody", &[], Err("unable to find user nobody: no matching entries in passwd file"));
        check("web:none", &[], Err("unable to find group none: no matching entries in group file"));
        check("web", &["x"], Err("unable to find group x: no matching entries in group file"));
        check("4294967295", &[], Err("unable to find user 4294967295: no matching entries in passwd file"));
    }
}
