//! Whiteouts and opaque directories in the form that overlayfs reads; no privilege needed.

use crate::fixture::check;

#[test]
fn whiteouts_become_devices() {
    check(&["file .wh.a"], "a!");
    check(&["dir d/", "file d/.wh.a", "file d/.wh.b"], "d/ d/a! d/b!");
    check(&["file d/.wh.a"], "d/ d/a!");
    check(&["file .wh.a", "file .wh.a"], "a!");
    check(&["symlink l d", "file l/.wh.a"], "d/ d/a! l->d");
}

#[test]
fn opaque_directories() {
    check(&["dir d/", "file d/.wh..wh..opq", "file d/a x"], "d!/ d/a=x");
    check(&["file d/.wh..wh..opq"], "d!/");
    check(&["file .wh..wh..opq"], "!");
    check(&["file d/a x", "file d/.wh..wh..opq", "dir d/"], "d!/ d/a=x");
}

#[test]
fn a_layer_never_hides_what_is_its_own() {
    check(&["file a x", "file .wh.a"], "a=x");
    check(&["file .wh.a", "file a x"], "a=x");
    check(&["dir d/", "file d/a x", "file .wh.d"], "d!/ d/a=x");
    check(&["file .wh.d", "dir d/", "file d/a x"], "d!/ d/a=x");
    check(&["file .wh.d", "file d/a x"], "d!/ d/a=x");
    check(&["symlink l /x", "file .wh.l"], "l->/x");
}

#[test]
fn whiteouts_that_hide_nothing_sane() {
    check(&["file .wh."], "error: entry \".wh.\" is a whiteout of nothing");
    check(&["file d/.wh.."], "error: is a whiteout of nothing");
    check(&["file .wh..."], "error: is a whiteout of nothing");
    check(&["file ../.wh.x"], "error: leaves the root");
    check(&["file .wh..wh.plnk x", "dir .wh..wh.orph"], "");
}
