//! One file, from the hub into the cache.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use reqwest::Url;
use sha2::{Digest, Sha256};

use crate::cache::{Blob, Cache, make_parent};
use crate::http::{Failure, Http, Metadata, Pauses};
use crate::{HubError, Repo};

/// The path of `file` in the cache, after a download if it was not there.
pub(crate) fn fetch(
    http: &Http,
    cache: &Cache,
    repo: &Repo,
    commit: &str,
    file: &str,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<PathBuf, HubError> {
    let url = http.file_url(repo, commit, file)?;
    let metadata = http.metadata(repo, &url, file, commit)?;
    let blob = cache.blob(repo, &metadata.etag);
    for path in [&blob.path, &blob.lock] {
        make_parent(path)?;
    }
    // Whoever comes second waits, and finds the file.
    let lock = File::create(&blob.lock).map_err(HubError::io(&blob.lock))?;
    lock.lock().map_err(HubError::io(&blob.lock))?;
    if !is_whole(&blob, &metadata) {
        Download { http, repo, url: &url, file, metadata: &metadata, incomplete: &blob.incomplete }
            .run(progress)?;
        fs::rename(&blob.incomplete, &blob.path).map_err(HubError::io(&blob.path))?;
    }
    cache.link(repo, commit, file, &blob.path)
}

/// Content is moved to its place only when it is whole and right, so its size is enough.
fn is_whole(blob: &Blob, metadata: &Metadata) -> bool {
    fs::metadata(&blob.path).is_ok_and(|found| found.is_file() && found.len() == metadata.size)
}

struct Download<'a> {
    http: &'a Http,
    repo: &'a Repo,
    url: &'a Url,
    file: &'a str,
    metadata: &'a Metadata,
    incomplete: &'a Path,
}

impl Download<'_> {
    /// Leaves the whole file at `incomplete`, flushed and checked.
    fn run(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), HubError> {
        let io = || HubError::io(self.incomplete);
        let mut options = File::options();
        let mut target =
            options.create(true).read(true).write(true).truncate(false).open(self.incomplete).map_err(io())?;
        let mut kept = target.metadata().map_err(io())?.len();
        loop {
            if kept > self.metadata.size {
                kept = 0;
            }
            match self.complete(&mut target, kept, progress).and_then(|()| self.check(&mut target)) {
                Ok(()) => break,
                // The part that was there before may have been damaged; what comes fresh is not doubted twice.
                Err(HubError::Damaged { .. }) if kept > 0 => kept = 0,
                Err(error @ HubError::Damaged { .. }) => {
                    let _ = fs::remove_file(self.incomplete);
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        target.sync_all().map_err(io())
    }

    /// Writes all bytes from `start` on, in as many connections as it takes.
    fn complete(
        &self,
        target: &mut File,
        start: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), HubError> {
        let io = || HubError::io(self.incomplete);
        let size = self.metadata.size;
        target.set_len(start).map_err(io())?;
        let mut done = start;
        progress(done, size);
        let mut pauses = Pauses::new();
        while done < size {
            let before = done;
            match self.receive(target, &mut done, progress) {
                Ok(()) if done == size => break,
                Ok(()) => {
                    let reason = format!("the connection ended after {done} of {size} bytes");
                    pauses.wait(self.url, reason, done)?;
                }
                Err(Failure::Passing(reason)) => {
                    // A connection that brought something on was worth the while.
                    if done > before {
                        pauses = Pauses::new();
                    }
                    pauses.wait(self.url, format!("{reason}, after {done} of {size} bytes"), done)?;
                }
                Err(Failure::Final(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what one connection gives.
    fn receive(
        &self,
        target: &mut File,
        done: &mut u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Failure> {
        let io = |error| Failure::Final(HubError::io(self.incomplete)(error));
        let size = self.metadata.size;
        let mut body = self.http.open(self.repo, self.url, self.file, *done)?;
        if body.start > *done {
            let reason = format!("the server sends from byte {} on, not from {done}", body.start);
            return Err(HubError::Damaged { file: self.file.to_owned(), reason }.into());
        }
        // A server without ranges begins anew.
        *done = body.start;
        target.set_len(*done).map_err(io)?;
        target.seek(SeekFrom::Start(*done)).map_err(io)?;
        while let Some(bytes) = self.http.next(&mut body)? {
            let bytes = bytes.as_ref();
            *done += bytes.len() as u64;
            if *done > size {
                let reason = format!("the server sends more than the {size} bytes that it announced");
                return Err(HubError::Damaged { file: self.file.to_owned(), reason }.into());
            }
            target.write_all(bytes).map_err(io)?;
            progress(*done, size);
        }
        Ok(())
    }

    /// Compares the file with its checksum, where the hub tells one: large files are named by their SHA-256.
    fn check(&self, target: &mut File) -> Result<(), HubError> {
        let expected = &self.metadata.etag;
        if expected.len() != 64 || !expected.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(());
        }
        target.seek(SeekFrom::Start(0)).map_err(HubError::io(self.incomplete))?;
        let found = sha256(target).map_err(HubError::io(self.incomplete))?;
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        let reason = format!("its SHA-256 is {found}, expected {expected}");
        Err(HubError::Damaged { file: self.file.to_owned(), reason })
    }
}

fn sha256(source: &mut impl Read) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(source, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A name for content that the hub does not name: of what leads to it. It is shorter than a checksum, for which it must not
/// be taken.
pub(crate) fn name_of(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_sha_256() {
        // The example of FIPS 180-2.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&mut &b"abc"[..]).unwrap(), expected);
    }
}
