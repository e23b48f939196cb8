//! Writer of cpio archives in the "newc" format, which the kernel unpacks as its first root file system.
//!
//! An entry is a header of 110 ASCII characters – the magic number and thirteen fields of eight hexadecimal digits –
//! then the name, then the content, each padded to four bytes. The entry named `TRAILER!!!` ends the archive.

/// An archive being written, in memory.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// A directory of mode 0755. The directories above it must have been added before.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), b"");
    }

    /// A directory in which anyone may make files, and remove their own.
    pub(crate) fn shared_directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o1777, (0, 0), b"");
    }

    /// A regular file.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, FILE | permissions, (0, 0), content);
    }

    /// A symlink that says `to`.
    pub(crate) fn symlink(&mut self, path: &str, to: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), to.as_bytes());
    }

    /// A character device with the given major and minor number.
    pub(crate) fn device(&mut self, path: &str, number: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE | 0o600, number, b"");
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let size = |length: usize| u32::try_from(length).expect("nothing here comes near 4 GiB");
        self.entries += 1;
        let (inode, owner, links, time, checksum) = (self.entries, 0, 1, 0, 0);
        let name = path.trim_start_matches('/');
        #[rustfmt::skip] // in the order of the format
        let fields = [
            inode, mode, owner, owner, links, time, size(content.len()),
            0, 0, device.0, device.1, size(name.len() + 1), checksum,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_header_name_and_content_each_padded_to_four() {
        let mut archive = Archive::default();
        archive.file("/init", 0o755, b"hello");
        let expected = "070701\
                        00000001000081ed000000000000000000000001000000000000000500000000000000000000000000000000\
                        0000000500000000init\0\0hello\0\0\0";
        assert_eq!(String::from_utf8(archive.bytes).unwrap(), expected);
    }

    #[test]
    fn the_last_entry_is_the_trailer() {
        let mut archive = Archive::default();
        archive.device("/dev/console", (5, 1));
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text}");
        assert!(text.contains("0000000500000001"), "{text}");
    }
}
