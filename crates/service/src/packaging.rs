//! Several files in one body.

use std::io::Write;

use wire::Packaging;

/// A file with the name that it shall have.
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) media_type: &'static str,
    pub(crate) content: Vec<u8>,
}

/// The files as one body, with its content type.
///
/// # Errors
/// What the zip writer says; it has no reason to.
pub(crate) fn pack(files: &[File], packaging: Packaging) -> Result<(String, Vec<u8>), rawzip::Error> {
    let media_type = packaging.media_type().to_owned();
    match packaging {
        Packaging::Zip => Ok((media_type, zip(files)?)),
        Packaging::Multipart => {
            let boundary = boundary(files);
            let body = multipart(files, &boundary);
            Ok((format!("{media_type}; boundary={boundary}"), body))
        }
    }
}

/// Pictures are compressed already, so they are stored as they are.
fn zip(files: &[File]) -> Result<Vec<u8>, rawzip::Error> {
    let mut archive = rawzip::ZipArchiveWriter::new(Vec::new());
    for file in files {
        let (mut entry, config) = archive.new_file(file.name.as_str()).start()?;
        let mut writer = config.wrap(&mut entry);
        writer.write_all(&file.content)?;
        let (_, written) = writer.finish()?;
        entry.finish(written)?;
    }
    archive.finish()
}

/// RFC 2046, section 5.1.
fn multipart(files: &[File], boundary: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for File { name, media_type, content } in files {
        let head = format!(
            "--{boundary}\r\nContent-Type: {media_type}\r\nContent-Disposition: attachment; filename=\"{name}\"\r\n\
             Content-Length: {}\r\n\r\n",
            content.len()
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

/// A line that is in none of the files.
fn boundary(files: &[File]) -> String {
    let mut number = 0_u64;
    loop {
        let boundary = format!("remote-vae-{number:016x}");
        let is_in =
            |file: &File| file.content.windows(boundary.len()).any(|part| part == boundary.as_bytes());
        if !files.iter().any(is_in) {
            return boundary;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &[u8]) -> File {
        File { name: name.to_owned(), media_type: "image/png", content: content.to_vec() }
    }

    #[test]
    fn the_boundary_is_never_part_of_a_file() {
        let files = [file("0.png", b"remote-vae-0000000000000000"), file("1.png", b"abc")];
        let (content_type, body) = pack(&files, Packaging::Multipart).unwrap();
        assert_eq!(content_type, "multipart/mixed; boundary=remote-vae-0000000000000001");
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "--remote-vae-0000000000000001\r\nContent-Type: image/png\r\n\
             Content-Disposition: attachment; filename=\"0.png\"\r\nContent-Length: 27\r\n\r\n\
             remote-vae-0000000000000000\r\n\
             --remote-vae-0000000000000001\r\nContent-Type: image/png\r\n\
             Content-Disposition: attachment; filename=\"1.png\"\r\nContent-Length: 3\r\n\r\n\
             abc\r\n--remote-vae-0000000000000001--\r\n"
        );
    }

    #[test]
    fn a_zip_file_gives_back_what_went_in() {
        let files = [file("0.png", b"one"), file("1.png", &[0, 255, 7])];
        let (content_type, body) = pack(&files, Packaging::Zip).unwrap();
        assert_eq!(content_type, "application/zip");
        let archive = rawzip::ZipArchive::from_slice(&body).unwrap();
        let mut entries = archive.entries();
        for file in files {
            let entry = entries.next_entry().unwrap().unwrap();
            assert_eq!(entry.file_path().as_bytes(), file.name.as_bytes());
            let stored = archive.get_entry(entry.wayfinder()).unwrap();
            assert_eq!(stored.data(), file.content);
        }
        assert!(entries.next_entry().unwrap().is_none());
    }
}
