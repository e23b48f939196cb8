//! What entries become, and what becomes of hostile ones.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use skiff_sys::xattr;

use crate::fixture::{
    Layer, Layout, Temp, append, append_pax, check, check_archive, header, is_root, resolve, root_or_skip,
    tar,
};

#[test]
fn plain_entries() {
    check(&[], "");
    check(&["dir ./", "dir a/", "file a/b hello", "symlink l a/b", "fifo f"], "a/ a/b=hello f| l->a/b");
    check(&["file a/b/c x"], "a/ a/b/ a/b/c=x");
    check(&["file a x", "link b a", "link c/d /a"], "a=x b=x c/ c/d=x");
    check(&["symlink l /nowhere", "link m l"], "l->/nowhere m->/nowhere");
    check(&["dir a", "dir a/", "dir ./a/."], "a/");
}

#[test]
fn later_entries_replace_earlier_ones() {
    check(&["file a old", "file a new"], "a=new");
    check(&["file a old", "dir a/", "file a/b x"], "a/ a/b=x");
    check(&["dir a/", "file a/b/c x", "file a new"], "a=new");
    check(&["dir a/", "file a/b x", "dir a/", "file a/c y"], "a/ a/b=x a/c=y");
    check(&["dir a/", "file a/b x", "file a y", "dir a/", "file a/c z"], "a/ a/c=z");
    check(&["symlink a /etc/passwd", "file a new"], "a=new");
    check(&["dir d/", "symlink a d", "dir a/", "file a/b x"], "a/ a/b=x d/");
    check(&["dir d/", "symlink a d", "file a/x 1", "dir a/", "file a/x 2"], "a/ a/x=2 d/ d/x=1");
    check(&["file a x", "symlink a a"], "a->a");
    check(&["fifo a", "file a x"], "a=x");
    check(&["file a x", "link b a", "file a y"], "a=y b=x");
}

#[test]
fn names_that_differ_in_case_alone_are_different() {
    check(
        &["file a lower", "file A upper", "dir D/", "file d/x 1", "file D/x 2"],
        "A=upper D/ D/x=2 a=lower d/ d/x=1",
    );
    check(&["file a x", "file .wh.A"], "A! a=x");
}

#[test]
fn nothing_leaves_the_root() {
    check(&["file ../x 1"], "error: entry \"../x\" leaves the root");
    check(&["file a/../../x 1"], "error: leaves the root");
    check(&["dir .."], "error: leaves the root");
    check(&["symlink ../x /etc"], "error: leaves the root");
    check(&["file a/../b 1"], "b=1");
    check(&["file /abs/x 1"], "abs/ abs/x=1");
    check(&["file //x 1", "file /./y 2"], "x=1 y=2");
    check(
        &["link x ../../etc/passwd"],
        "error: entry \"x\" is a hard link to \"../../etc/passwd\" outside the root",
    );
    check(
        &["link x /etc/passwd"],
        "error: entry \"x\" is a hard link to \"/etc/passwd\", which is not in this layer",
    );
    check(&["symlink etc /etc", "link x etc/passwd"], "error: which is not in this layer");
    check(&["link x x"], "error: which is not in this layer");
    check(&["dir d/", "link x d"], "error: entry \"x\": operation not permitted");
    check(&["symlink / /etc"], "error: entry \"/\" stands for the root but is not a directory");
    check(&["file . x"], "error: stands for the root but is not a directory");
}

#[test]
fn symlinks_on_the_way_are_followed_inside_the_root() {
    check(&["dir usr/lib/", "symlink lib usr/lib", "file lib/x 1"], "lib->usr/lib usr/ usr/lib/ usr/lib/x=1");
    check(&["symlink lib usr/lib", "file lib/x 1"], "lib->usr/lib usr/ usr/lib/ usr/lib/x=1");
    check(&["symlink up ../../..", "file up/x 1"], "up->../../.. x=1");
    check(&["symlink abs /tmp", "file abs/x 1"], "abs->/tmp tmp/ tmp/x=1");
    check(&["dir a/", "symlink a/up ../b/./", "file a/up/c/x 1"], "a/ a/up->../b/./ b/ b/c/ b/c/x=1");
    check(&["symlink a b", "symlink b c", "file a/x 1"], "a->b b->c c/ c/x=1");
    check(&["symlink a b", "symlink b a", "file a/x 1"], "error: too many symbolic links");
    check(&["symlink a .", "file a/a/a/x 1"], "a->. x=1");
    check(&["dir r/", "symlink l r", "dir l/d/", "symlink l /", "file l/y 1"], "l->/ r/ r/d/ y=1");
    check(&["file f x", "file f/g y"], "error: entry \"f/g\": not a directory");
    check(&["file f x", "symlink l f", "file l/g y"], "error: entry \"l/g\": not a directory");
    check(&["dir a/", "file a/f x", "symlink l a", "link m l/f"], "a/ a/f=x l->a m=x");
}

#[test]
fn names_that_strain() {
    let long = "n".repeat(255);
    let mut archive = Vec::new();
    append_pax(&mut archive, &[("path", format!("{long}/{long}/f").as_bytes())]);
    append(&mut archive, &mut header("short"), b"x");
    check_archive(archive, "long name", &format!("{long}/ {long}/{long}/ {long}/{long}/f=x"));

    let mut archive = Vec::new();
    append_pax(&mut archive, &[("path", "n".repeat(256).as_bytes())]);
    append(&mut archive, &mut header("short"), b"x");
    check_archive(archive, "too long a name", "error: file name too long");

    let mut archive = Vec::new();
    append_pax(&mut archive, &[("path", "n/".repeat(2100).as_bytes())]);
    append(&mut archive, &mut header("short"), b"x");
    check_archive(archive, "too long a path", "error: file name too long");

    let mut archive = Vec::new();
    append_pax(&mut archive, &[("path", b"\xff\xfe")]);
    append(&mut archive, &mut header("short"), b"x");
    check_archive(archive, "not UTF-8", "\u{fffd}\u{fffd}=x");

    let mut archive = Vec::new();
    append_pax(&mut archive, &[("path", b"a\0b")]);
    append(&mut archive, &mut header("short"), b"x");
    check_archive(archive, "NUL", "error: a name with a NUL in it");
}

#[test]
fn long_names_in_gnus_way() {
    let long = "n".repeat(200);
    let entry = |archive: &mut Vec<u8>, kind: u8, path: &str, data: &str| {
        let mut header = header(path);
        header.set_entry_type(tar::EntryType::new(kind));
        append(archive, &mut header, data.as_bytes());
    };
    let mut archive = Vec::new();
    entry(&mut archive, b'L', "././@LongLink", &format!("d/{long}\0"));
    entry(&mut archive, b'0', "short", "x");
    for (kind, name) in [(b'1', "hard"), (b'2', "soft")] {
        entry(&mut archive, b'K', "././@LongLink", &format!("d/{long}\0"));
        entry(&mut archive, kind, name, "");
    }
    check_archive(archive.clone(), "long names", &format!("d/ d/{long}=x hard=x soft->d/{long}"));
    entry(&mut archive, b'L', "././@LongLink", &format!("../{long}\0"));
    entry(&mut archive, b'0', "short", "x");
    check_archive(archive, "a long way out", "error: leaves the root");
}

/// Each entry goes one symlink deeper than a path can say.
#[test]
fn depth_is_bounded_and_can_be_removed() {
    let mut archive = Vec::new();
    let deep = "d/".repeat(1500);
    for name in ["l0", "l0/l1", "l0/l1/l2"] {
        append_pax(&mut archive, &[("path", name.as_bytes()), ("linkpath", deep.as_bytes())]);
        let mut link = header("short");
        link.set_entry_type(tar::EntryType::Symlink);
        append(&mut archive, &mut link, b"");
    }
    append(&mut archive, &mut header("l0/l1/l2/f"), b"x");
    check_archive(archive, "deep", "error: entry \"l0/l1/l2\": file name too long");
}

#[test]
fn damaged_archives() {
    let whole = tar(&["dir a/", "file a/b hello"]);
    check_archive(whole[..1024 + 5].to_vec(), "no padding, no end", "a/ a/b=hello");
    check_archive(whole[..1024 + 4].to_vec(), "cut in data", "error: entry \"a/b\": the data ends too early");
    check_archive(
        whole[..600].to_vec(),
        "cut in a header",
        "error: after entry \"a/\": the data ends too early",
    );
    check_archive(b"no tar at all".to_vec(), "text", "error: the data ends too early");
    check_archive(vec![b'x'; 512], "rubbish", "error: malformed tar");
    let mut wrong = whole.clone();
    wrong[512] ^= 1;
    check_archive(wrong, "wrong checksum", "error: after entry \"a/\": malformed tar: wrong header checksum");
    let mut zeros = whole.clone();
    zeros.splice(512..512, [0; 512]);
    check_archive(zeros, "a zero block inside", "error: malformed tar: zeros where a header belongs");

    let mut archive = Vec::new();
    append_pax(&mut archive, &[("size", b"9223372036854775807")]);
    append(&mut archive, &mut header("f"), b"x");
    check_archive(archive, "size at the limit", "error: size out of range");
    let mut archive = Vec::new();
    append_pax(&mut archive, &[("size", b"1000000")]);
    append(&mut archive, &mut header("f"), b"x");
    check_archive(archive, "size that lies", "error: entry \"f\": the data ends too early");
    let mut archive = Vec::new();
    append_pax(&mut archive, &[("uid", b"4294967295")]);
    append(&mut archive, &mut header("f"), b"x");
    check_archive(archive, "no such owner", "error: owner 4294967295 out of range");
    let mut archive = Vec::new();
    let mut odd = header("f");
    odd.set_entry_type(tar::EntryType::new(b'M'));
    append(&mut archive, &mut odd, b"x");
    check_archive(archive, "multi-volume", "error: entry type 'M' is not supported");
    let mut archive = Vec::new();
    let mut huge = header("long");
    huge.set_entry_type(tar::EntryType::GNULongName);
    append(&mut archive, &mut huge, &vec![b'n'; 1 << 21]);
    check_archive(archive, "huge name", "error: over 1 MiB of extension headers");
}

#[test]
fn modes_and_times_survive() {
    let temp = Temp::new();
    let mut archive = Vec::new();
    let entry = |archive: &mut Vec<u8>, path: &str, mode, mtime: &[u8]| {
        let mut header = header(path);
        header.set_mode(mode);
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        append_pax(archive, &[("mtime", mtime)]);
        append(archive, &mut header, b"");
    };
    entry(&mut archive, "./", 0o711, b"10.5");
    entry(&mut archive, "locked/", 0o555, b"20.123456789");
    entry(&mut archive, "locked/setuid", 0o4755, b"-1.25");
    entry(&mut archive, "sticky/", 0o1777, b"4294967296");
    entry(&mut archive, "implicit/file", 0o600, b"1");
    let layout = Layout::of(temp.join("oci"), &[Layer::plain(archive)]);
    let image = resolve(&temp.join("store"), &layout.reference()).unwrap();
    let check = |path: &str, mode: u32, mtime: (i64, i64)| {
        let meta = image.layers[0].join(path).metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, (meta.mtime(), meta.mtime_nsec())), (mode, mtime), "{path}");
    };
    check("", 0o711, (10, 500_000_000));
    check("locked", 0o555, (20, 123_456_789));
    check("locked/setuid", 0o4755, (-2, 750_000_000));
    check("sticky", 0o1777, (4_294_967_296, 0));
    check("implicit", 0o755, (0, 0));
    check("implicit/file", 0o600, (1, 0));
    fs::set_permissions(image.layers[0].join("locked"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
}

#[test]
fn owners_devices_and_capabilities_survive_as_root() {
    if !root_or_skip() {
        return;
    }
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut archive = Vec::new();
    for path in ["f", "d/", "l"] {
        let mut header = header(path);
        header.set_uid(1234);
        header.set_gid(3_000_000);
        header.set_mode(0o4755);
        match path {
            "d/" => header.set_entry_type(tar::EntryType::Directory),
            "l" => header.set_entry_type(tar::EntryType::Symlink),
            _ => {}
        }
        header.as_old_mut().linkname[..1].copy_from_slice(b"f");
        append_pax(&mut archive, &[("SCHILY.xattr.security.capability", capability)]);
        append(&mut archive, &mut header, b"");
    }
    archive.extend(tar(&["char null 1 3", "link null2 null"]));
    let temp = Temp::new();
    let layout = Layout::of(temp.join("oci"), &[Layer::plain(archive)]);
    let image = resolve(&temp.join("store"), &layout.reference()).unwrap();
    let root = &image.layers[0];
    for path in ["f", "d", "l"] {
        let meta = root.join(path).symlink_metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1234, 3_000_000), "{path}");
    }
    assert_eq!(root.join("f").metadata().unwrap().mode() & 0o7777, 0o4755);
    let file = File::open(root.join("f")).unwrap();
    assert_eq!(xattr::get(file.as_fd(), c"security.capability").unwrap().unwrap(), capability);
    let null = root.join("null").metadata().unwrap();
    assert_eq!((null.rdev(), null.nlink()), (nix::sys::stat::makedev(1, 3), 2));
}

/// The store's own directory may make new files belong to a group.
#[test]
fn root_files_are_root_s_below_a_setgid_directory() {
    if !root_or_skip() {
        return;
    }
    let temp = Temp::new();
    std::os::unix::fs::chown(temp.path(), None, Some(1234)).unwrap();
    fs::set_permissions(temp.path(), std::os::unix::fs::PermissionsExt::from_mode(0o2755)).unwrap();
    let archive = tar(&["file d/f x", "symlink d/l f", "fifo d/p"]);
    let layout = Layout::of(temp.join("oci"), &[Layer::plain(archive)]);
    let image = resolve(&temp.join("store"), &layout.reference()).unwrap();
    for path in ["", "d", "d/f", "d/l", "d/p"] {
        let meta = image.layers[0].join(path).symlink_metadata().unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o2000), (0, 0), "{path:?}");
    }
}

#[test]
fn everything_belongs_to_the_caller_without_root() {
    if is_root() {
        println!("skip: needs a plain user");
        return;
    }
    let mut other = header("f");
    other.set_uid(0);
    let mut archive = Vec::new();
    append(&mut archive, &mut other, b"x");
    archive.extend(tar(&["char null 1 3"]));
    check_archive(archive, "squashed", "f=x");
}

#[test]
fn only_attributes_that_belong_to_files_are_kept() {
    let mut archive = Vec::new();
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.kept", b"a\0b"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.security.selinux", b"x"),
    ];
    append_pax(&mut archive, records);
    append(&mut archive, &mut header("f"), b"x");
    let mut directory = header("d/");
    directory.set_entry_type(tar::EntryType::Directory);
    append_pax(&mut archive, records);
    append(&mut archive, &mut directory, b"");
    let temp = Temp::new();
    let layout = Layout::of(temp.join("oci"), &[Layer::plain(archive)]);
    let image = resolve(&temp.join("store"), &layout.reference()).unwrap();
    for path in ["f", "d"] {
        let file = File::open(image.layers[0].join(path)).unwrap();
        let get = |name: &std::ffi::CStr| xattr::get(file.as_fd(), name).unwrap();
        assert_eq!(get(c"user.kept").unwrap(), b"a\0b");
        assert_eq!(get(c"user.overlay.redirect"), None);
        assert_eq!(get(c"trusted.overlay.redirect"), None);
        assert_eq!(get(c"trusted.overlay.metacopy"), None);
    }
}

#[test]
fn access_control_lists_are_kept() {
    // Of version 2: tag, permissions and id of each entry. A user of its own may read.
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let mut archive = Vec::new();
    append_pax(&mut archive, &[("SCHILY.xattr.system.posix_acl_access", &list)]);
    append(&mut archive, &mut header("f"), b"x");
    let temp = Temp::new();
    let layout = Layout::of(temp.join("oci"), &[Layer::plain(archive)]);
    let image = resolve(&temp.join("store"), &layout.reference()).unwrap();
    let file = File::open(image.layers[0].join("f")).unwrap();
    assert_eq!(xattr::get(file.as_fd(), c"system.posix_acl_access").unwrap().unwrap(), list);
}

#[test]
fn sparse_files_stay_sparse() {
    let size = 20u64 << 30;
    let end = size - 3;
    let map = format!("0,3,{end},3");
    let mut archive = Vec::new();
    append_pax(
        &mut archive,
        &[
            ("GNU.sparse.size", size.to_string().as_bytes()),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.name", b"v0.1"),
        ],
    );
    append(&mut archive, &mut header("placeholder"), b"onetwo");
    append_pax(
        &mut archive,
        &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", size.to_string().as_bytes()),
            ("GNU.sparse.name", b"v1.0"),
        ],
    );
    let mut data = format!("2\n0\n3\n{end}\n3\n").into_bytes();
    data.resize(512, 0);
    data.extend(b"onetwo");
    append(&mut archive, &mut header("placeholder"), &data);
    let temp = Temp::new();
    let layout = Layout::of(temp.join("oci"), &[Layer::plain(archive)]);
    let image = resolve(&temp.join("store"), &layout.reference()).unwrap();
    for name in ["v0.1", "v1.0"] {
        let path = image.layers[0].join(name);
        let meta = path.metadata().unwrap();
        assert_eq!(meta.len(), size, "{name}");
        assert!(meta.blocks() < 1000, "{name}");
        let mut text = [0; 3];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(path).unwrap(), &mut text, end).unwrap();
        assert_eq!(&text, b"two", "{name}");
    }
}

#[test]
fn sparse_maps_that_lie() {
    let check = |map: &str, expect: &str| {
        let mut archive = Vec::new();
        append_pax(&mut archive, &[("GNU.sparse.size", b"100"), ("GNU.sparse.map", map.as_bytes())]);
        append(&mut archive, &mut header("f"), b"0123456789");
        check_archive(archive, map, expect);
    };
    check("0,10,200,0", "error: sparse map out of order or out of range");
    check("50,5,0,5", "error: sparse map out of order or out of range");
    check("0,5,4,5", "error: sparse map out of order or out of range");
    check("18446744073709551615,10", "error: bad number in a sparse map");
    check("0,9", "error: sparse map does not match the stored size");
    check("0,11", "error: sparse map does not match the stored size");
    check("0", "error: sparse map with an odd number of numbers");
    check("x,1", "error: bad number in a sparse map");
}
