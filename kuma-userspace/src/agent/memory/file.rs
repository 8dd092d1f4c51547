//! A view as a file: its header and its parts, each as the resource that it came in, then a hash of all of it.
//! Keeps: a new file takes the old one's place when it is whole and on the disk; a file that is cut or changed is refused;
//! neither way needs the whole file in memory. Called by memory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::model::view::{Changes, MeshView, ViewError};
use crate::wire::view::{self, DecodeError, Decoded, Named};

/// The first octets: what it is, and in which form.
const MAGIC: &[u8; 16] = b"kuma-dns view 1\n";
/// In place of the length of a name: the hash follows.
const END: u32 = u32::MAX;
/// The longest name or resource.
const FIELD_BYTES_MAX: u32 = 1 << 20;
/// Names of services are nobody else's business.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o755;

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot {verb} it")]
    Io { verb: &'static str, source: io::Error },
    #[error("it is no view of this release")]
    Foreign,
    #[error("it is damaged")]
    Damaged,
    #[error("its resource {name:?} is not valid")]
    Resource { name: String, source: DecodeError },
    #[error("it contradicts itself")]
    View(#[source] ViewError),
}

/// Writes the view beside its place and moves it there.
pub(super) fn write(path: &Path, view: &MeshView) -> Result<(), FileError> {
    let failed = |source| FileError::Io { verb: "write", source };
    let folder = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(folder).map_err(failed)?;
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&fresh).map_err(failed)?;
    put(file, view)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(failed)
}

fn put(file: File, view: &MeshView) -> io::Result<File> {
    let mut out = Hashed { inner: BufWriter::new(file), hash: Sha256::new() };
    out.write_all(MAGIC)?;
    put_resource(&mut out, view.name(), &view::encode_header(view.header()))?;
    for (key, part) in view.parts() {
        put_resource(&mut out, &view::part_name(view.name(), key), &view::encode_part(part))?;
    }
    out.write_all(&END.to_le_bytes())?;
    let Hashed { mut inner, hash } = out;
    inner.write_all(&hash.finalize())?;
    inner.into_inner().map_err(io::IntoInnerError::into_error)
}

fn put_resource(out: &mut impl Write, name: &str, body: &[u8]) -> io::Result<()> {
    for field in [name.as_bytes(), body] {
        let bytes = u32::try_from(field.len()).ok().filter(|&bytes| bytes <= FIELD_BYTES_MAX);
        out.write_all(&bytes.ok_or(io::ErrorKind::FileTooLarge)?.to_le_bytes())?;
        out.write_all(field)?;
    }
    Ok(())
}

/// The view that the file holds.
pub(super) fn read(path: &Path) -> Result<MeshView, FileError> {
    let file = File::open(path).map_err(|source| FileError::Io { verb: "open", source })?;
    let mut from = Hashed { inner: BufReader::new(file), hash: Sha256::new() };
    let mut magic = [0; MAGIC.len()];
    take(&mut from, &mut magic)?;
    if magic != *MAGIC {
        return Err(FileError::Foreign);
    }
    let (name, header) = take_resource(&mut from)?.ok_or(FileError::Damaged)?;
    let header = match decode(&name, &name, &header)? {
        (_, Decoded::Header(header)) => header,
        (_, Decoded::Part(_)) => return Err(FileError::Damaged),
    };
    let mut changes = Changes::default();
    while let Some((resource, body)) = take_resource(&mut from)? {
        let (Named::Part(key), Decoded::Part(part)) = decode(&name, &resource, &body)? else {
            return Err(FileError::Damaged);
        };
        changes.parts.insert(key.into(), Some(Arc::new(part)));
    }
    let Hashed { mut inner, hash } = from;
    let mut written = [0; 32];
    take(&mut inner, &mut written)?;
    if hash.finalize()[..] != written {
        return Err(FileError::Damaged);
    }
    MeshView::new(&name, header).with(changes).map_err(FileError::View)
}

fn decode<'n>(view: &str, name: &'n str, body: &[u8]) -> Result<(Named<'n>, Decoded), FileError> {
    let named = Named::read(view, name);
    let decoded = named.and_then(|named| Ok((named, view::decode(named, body)?)));
    decoded.map_err(|source| FileError::Resource { name: name.into(), source })
}

/// A name and what stands under it; nothing at the end.
fn take_resource(from: &mut impl Read) -> Result<Option<(String, Vec<u8>)>, FileError> {
    let Some(name) = take_field(from)? else { return Ok(None) };
    let name = String::from_utf8(name).map_err(|_not_utf8| FileError::Damaged)?;
    let body = take_field(from)?.ok_or(FileError::Damaged)?;
    Ok(Some((name, body)))
}

fn take_field(from: &mut impl Read) -> Result<Option<Vec<u8>>, FileError> {
    let mut length = [0; 4];
    take(from, &mut length)?;
    match u32::from_le_bytes(length) {
        END => Ok(None),
        bytes if bytes > FIELD_BYTES_MAX => Err(FileError::Damaged),
        bytes => {
            let mut field = vec![0; bytes as usize];
            take(from, &mut field)?;
            Ok(Some(field))
        }
    }
}

fn take(from: &mut impl Read, octets: &mut [u8]) -> Result<(), FileError> {
    from.read_exact(octets).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => FileError::Damaged,
        _ => FileError::Io { verb: "read", source },
    })
}

/// Hashes what passes through.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let bytes = self.inner.write(octets)?;
        self.hash.update(&octets[..bytes]);
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(octets)?;
        self.hash.update(&octets[..bytes]);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::memory::tests::view;

    #[test]
    fn what_was_written_is_read_and_nothing_that_was_cut_or_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("view");
        write(&path, &view("default")).unwrap();
        assert_eq!(read(&path).unwrap(), view("default"));
        assert!(!path.with_extension("new").exists());
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(read(&path).is_err(), "{cut} octets of {}", whole.len());
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, changed).unwrap();
            assert!(read(&path).is_err(), "octet {at} is another one");
        }
    }
}
