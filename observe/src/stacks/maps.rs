//! The executable mappings of a process that lives: proc_pid_maps(5).

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The first address.
    pub start: u64,
    /// The one behind the last.
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// Major and minor number of the file's device.
    pub device: (u32, u32),
    /// The file's inode; 0 for what is none.
    pub inode: u64,
    /// Its path, or a name in brackets; empty for memory without a file.
    pub name: Vec<u8>,
}

/// Understands the text of the file; lines that are not executable, or no lines of it, are left out.
pub fn parse(text: &[u8]) -> impl Iterator<Item = Line> {
    text.split(|byte| *byte == b'\n').filter_map(line)
}

fn line(line: &[u8]) -> Option<Line> {
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = word()?.split_once('-')?;
    let is_code = word()?.contains('x');
    let offset = hex(word()?)?;
    let (major, minor) = word()?.split_once(':')?;
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let (device, inode) = ((number(major)?, number(minor)?), word()?.parse().ok()?);
    let name = words.next().unwrap_or_default();
    let blank = name.iter().take_while(|byte| **byte == b' ').count();
    is_code.then_some(Line {
        start: hex(start)?,
        end: hex(end)?,
        offset,
        device,
        inode,
        name: name[blank..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_mappings_are_found() {
        let text = b"00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/a b\n\
            00651000-00652000 rw-p 00000000 08:02 173521 /usr/bin/x\n7fff0000-7fff1000 r-xp 00000000 00:00 0 [vdso]\nnonsense\n\
            7000-8000 rwxp 00000000 00:00 0 \n";
        let found: Vec<_> = parse(text).collect();
        assert_eq!(found.len(), 3);
        let first = Line {
            start: 0x40_0000,
            end: 0x45_2000,
            offset: 0x1000,
            device: (8, 2),
            inode: 173_521,
            name: b"/usr/bin/a b".to_vec(),
        };
        assert_eq!(found[0], first);
        assert_eq!((found[1].name.as_slice(), found[2].name.as_slice()), (&b"[vdso]"[..], &b""[..]));
    }
}
