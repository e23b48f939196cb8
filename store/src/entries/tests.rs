use std::io::Cursor;

use super::*;

/// Magic and version of ustar and PAX.
const USTAR: &[u8] = b"ustar\x0000";

/// Reads every entry with its data, as far as they are good.
fn read(archive: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(Cursor::new(archive));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        loop {
            let piece = reader.data()?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let count = piece.len();
            reader.consume(count);
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

/// A header with `fields` written over it, and a checksum that is right.
fn block(fields: &[(usize, &[u8])]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (at, value) in fields {
        block[*at..*at + value.len()].copy_from_slice(value);
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[test]
fn numbers() {
    let check = |field: &[u8], expect: Option<i64>| {
        assert_eq!(header::number(field).ok(), expect, "{field:?}");
    };
    check(b"0000644\0", Some(0o644));
    check(b"   644 \0", Some(0o644));
    check(b"77777777777", Some(0o77777777777));
    check(b"\0\0\0\0", Some(0));
    check(b"", Some(0));
    check(b"0000648\0", None);
    check(b"-1\0", None);
    check(b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256));
    check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2));
    check(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX));
    check(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
    check(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None);
}

#[test]
fn names_in_old_headers() {
    let check = |fields: &[(usize, &[u8])], expect: &str| {
        let (entry, _) = read(&block(fields)).unwrap().remove(0);
        assert_eq!(String::from_utf8_lossy(&entry.path), expect);
    };
    check(&[(0, b"v7")], "v7");
    check(&[(0, b"name"), (257, USTAR), (345, b"pre/fix")], "pre/fix/name");
    check(&[(0, b"name"), (257, b"ustar  \0"), (345, b"not a prefix")], "name");
    check(&[(0, b"name"), (257, USTAR), (345, b"star"), (476, b"0000\0"), (508, b"tar\0")], "star/name");
    check(&[(0, &[b'n'; 100]), (257, USTAR)], &"n".repeat(100));
}

#[test]
fn kinds() {
    let check = |kind: u8, name: &[u8], expect: Kind| {
        let header =
            block(&[(0, name), (156, &[kind]), (157, b"to"), (329, b"0000010\0"), (337, b"0000002\0")]);
        assert_eq!(read(&header).unwrap()[0].0.kind, expect);
    };
    check(0, b"f", Kind::File);
    check(0, b"d/", Kind::Directory);
    check(b'0', b"f", Kind::File);
    check(b'7', b"f", Kind::File);
    check(b'1', b"f", Kind::HardLink(b"to".to_vec()));
    check(b'2', b"f", Kind::Symlink(b"to".to_vec()));
    check(b'3', b"f", Kind::Char(8, 2));
    check(b'4', b"f", Kind::Block(8, 2));
    check(b'5', b"f", Kind::Directory);
    check(b'6', b"f", Kind::Fifo);
}

#[test]
fn sizes_of_what_has_no_data_are_ignored() {
    for kind in b"123456" {
        let archive = [block(&[(0, b"a"), (124, b"77777\0"), (156, &[*kind])]), block(&[(0, b"b")])].concat();
        assert_eq!(read(&archive).unwrap().len(), 2, "{kind}");
    }
}

#[test]
fn files_larger_than_octal_can_say() {
    let mut size = [0; 12];
    size[0] = 0x80;
    size[4..].copy_from_slice(&(9u64 << 30).to_be_bytes());
    let archive = block(&[(0, b"f"), (124, &size)]);
    let mut reader = Reader::new(Cursor::new(&archive[..]));
    assert_eq!(reader.next().unwrap().unwrap().size, 9 << 30);
}

#[test]
fn old_gnu_sparse_map() {
    let number = |n: u64| format!("{n:011o}\0").into_bytes();
    let segment = |n: u64| [number(n * 100), number(1)].concat();
    let first: Vec<u8> = (0..4).flat_map(segment).collect();
    let header = block(&[
        (0, b"f"),
        (124, &number(6)),
        (156, b"S"),
        (257, b"ustar  \0"),
        (386, &first),
        (482, &[1]),
        (483, &number(1000)),
    ]);
    let mut more = [0; BLOCK];
    let rest: Vec<u8> = (4..6).flat_map(segment).collect();
    more[..rest.len()].copy_from_slice(&rest);
    let mut data = [0; BLOCK];
    data[..6].copy_from_slice(b"abcdef");
    let (entry, data) = read(&[header, more, data].concat()).unwrap().remove(0);
    let offsets: Vec<_> = entry.segments.unwrap().iter().map(|segment| segment.offset).collect();
    assert_eq!((entry.size, offsets), (1000, vec![0, 100, 200, 300, 400, 500]));
    assert_eq!(data, b"abcdef");
}

#[test]
fn sparse_map_text_is_bounded() {
    let check = |start: &[u8], blocks: usize| {
        let mut text = super::sparse::MapText::default();
        let mut block = [b'1'; BLOCK];
        block[..start.len()].copy_from_slice(start);
        for _ in 0..blocks {
            assert!(!text.is_complete().unwrap());
            text.push(&block);
            block = [b'1'; BLOCK];
        }
        assert!(text.is_complete().is_err(), "{}", start.escape_ascii());
    };
    check(b"", 2);
    check(b"1\n", 2);
    check(b"100\n1\n", 9);
    check(b"9999999999\n", 1);
}

#[test]
fn pax_records() {
    let check = |records: &[u8], expect: Option<(&str, i64, i64)>| {
        let mut pax = Pax::default();
        let got = pax.read(records).ok().map(|()| {
            let time = pax.mtime.unwrap_or(TimeSpec::new(0, 0));
            (
                String::from_utf8_lossy(&pax.path.unwrap_or_default()).into_owned(),
                time.tv_sec(),
                time.tv_nsec(),
            )
        });
        assert_eq!(got, expect.map(|(path, s, ns)| (path.to_owned(), s, ns)), "{}", records.escape_ascii());
    };
    check(b"", Some(("", 0, 0)));
    check(b"9 path=a\n", Some(("a", 0, 0)));
    check(b"12 path=a=b\n9 path=c\n", Some(("c", 0, 0)));
    check(b"9 path=a\n8 path=\n", Some(("", 0, 0)));
    check(b"14 mtime=12.5\n", Some(("", 12, 500_000_000)));
    check(b"22 mtime=1.1234567899\n", Some(("", 1, 123_456_789)));
    check(b"14 mtime=-0.5\n", Some(("", -1, 500_000_000)));
    check(b"12 mtime=-3\n", Some(("", -3, 0)));
    check(b"11 mtime=x\n", None);
    check(b"13 mtime=1.x\n", None);
    check(b"9 path=a", None);
    check(b"8 path=a\n", None);
    check(b"99 path=a\n", None);
    check(b"-1 path=a\n", None);
    check(b"path=a\n", None);
    check(b"7 patha\n", None);
    check(b"3 \n", None);
    check(b"0 \n", None);
    check(b"99999999999999999999 path=a\n", None);
}

/// No input makes the reader panic, loop or take memory that it has no data for: every byte of an archive with all
/// features gets a few wrong values, with the checksum put right so that the fields behind it are reached.
#[test]
fn no_single_wrong_byte_does_harm() {
    let long = [b'n'; 200];
    let pax = b"26 GNU.sparse.map=0,1,5,1\n21 GNU.sparse.size=9\n18 path=some/path\n";
    let mut archive = Vec::new();
    for (kind, data) in
        [(b'L', &long[..]), (b'0', b"data"), (b'x', pax), (b'0', b"ab"), (b'K', &long), (b'2', b"")]
    {
        let size = format!("{:011o}\0", data.len()).into_bytes();
        archive.extend(block(&[(0, b"name"), (124, &size), (156, &[kind]), (257, USTAR)]));
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    let sparse = format!("{:011o}\0{:011o}\0", 0, 2).into_bytes();
    archive.extend(block(&[
        (0, b"s"),
        (124, b"00000000002\0"),
        (156, b"S"),
        (386, &sparse),
        (483, b"00000000002\0"),
    ]));
    archive.extend([7; BLOCK]);
    assert_eq!(read(&archive).unwrap().len(), 4);
    for at in 0..archive.len() {
        for value in [0, b'7', 0xff] {
            let mut wrong = archive.clone();
            wrong[at] = value;
            let start = at / BLOCK * BLOCK;
            let fixed: [u8; BLOCK] = wrong[start..start + BLOCK].try_into().unwrap();
            let fields: Vec<_> =
                fixed.iter().enumerate().map(|(at, byte)| (at, std::slice::from_ref(byte))).collect();
            drop(read(&wrong));
            wrong[start..start + BLOCK].copy_from_slice(&block(&fields));
            drop(read(&wrong));
        }
    }
}
