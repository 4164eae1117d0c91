//! The formats of image files: supported ones, and others that are only recognized.

use image::ImageFormat;

/// Enough first bytes of a file to detect its format.
pub(crate) const N_SNIFFED: usize = 12;

/// The unsupported formats with their file extensions.
const UNREAD_EXTENSIONS: [(&str, &[&str]); 10] = [
    ("HEIC", &["heic", "heif", "hif"]),
    ("AVIF", &["avif", "avifs"]),
    ("GIF", &["gif"]),
    ("TIFF", &["tif", "tiff"]),
    (
        "RAW",
        &[
            "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "kdc", "mef", "mos",
            "mrw", "nef", "nrw", "orf", "pef", "raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
        ],
    ),
    ("JPEG XL", &["jxl"]),
    ("JPEG 2000", &["jp2", "j2k", "jpf", "jpx"]),
    ("PSD", &["psd", "psb"]),
    ("TGA", &["tga"]),
    ("PNM", &["pbm", "pgm", "ppm", "pnm"]),
];

/// The supported format of content with these first bytes.
pub(crate) fn read_format(beginning: &[u8]) -> Option<ImageFormat> {
    let is_webp = beginning.starts_with(b"RIFF") && beginning.get(8..12) == Some(b"WEBP");
    match beginning {
        [0xff, 0xd8, 0xff, ..] => Some(ImageFormat::Jpeg),
        _ if beginning.starts_with(b"\x89PNG\r\n\x1a\n") => Some(ImageFormat::Png),
        _ if is_webp => Some(ImageFormat::WebP),
        // Many texts begin with `BM`, but these four bytes are 0 in every bitmap.
        [b'B', b'M', ..] if beginning.get(6..10) == Some(&[0; 4]) => Some(ImageFormat::Bmp),
        _ => None,
    }
}

/// The unsupported format of content with these first bytes.
pub(crate) fn unread_format(beginning: &[u8]) -> Option<&'static str> {
    let starts_with = |bytes: &[u8]| beginning.starts_with(bytes);
    if beginning.get(4..8) == Some(b"ftyp") {
        return match beginning.get(8..12)? {
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
                Some("HEIC")
            }
            b"avif" | b"avis" => Some("AVIF"),
            b"crx " => Some("RAW"),
            // Videos have such a beginning, too.
            _ => None,
        };
    }
    if starts_with(b"GIF87a") || starts_with(b"GIF89a") {
        Some("GIF")
    } else if starts_with(b"II*\0") || starts_with(b"MM\0*") {
        Some("TIFF")
    } else if starts_with(b"FUJIFILMCCD-") || starts_with(b"IIRO") || starts_with(b"IIU\0") {
        Some("RAW")
    } else if starts_with(b"\0\0\0\x0cJXL ") || starts_with(b"\xff\x0a") {
        Some("JPEG XL")
    } else if starts_with(b"\0\0\0\x0cjP  ") || starts_with(b"\xff\x4f\xff\x51") {
        Some("JPEG 2000")
    } else if starts_with(b"8BPS") {
        Some("PSD")
    } else {
        None
    }
}

/// The unsupported format of a file, by its name or else by its first bytes. Most RAW formats begin like TIFF.
pub(crate) fn unread_file(name: &str, beginning: &[u8]) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.').unwrap_or_default();
    let by_name = UNREAD_EXTENSIONS.iter().find(|(_, endings)| {
        endings
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    });
    by_name
        .map(|(format, _)| *format)
        .or_else(|| unread_format(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_told_by_its_first_bytes() {
        for (beginning, format) in [
            (&b"\xff\xd8\xff\xe0\0\x10JFIF"[..], Some(ImageFormat::Jpeg)),
            (b"\x89PNG\r\n\x1a\n\0\0\0\r", Some(ImageFormat::Png)),
            (b"RIFF\x24\0\0\0WEBPVP8 ", Some(ImageFormat::WebP)),
            (b"RIFF\x24\0\0\0WAVEfmt ", None),
            (b"BM\x46\0\0\0\0\0\0\0\x36\0", Some(ImageFormat::Bmp)),
            (b"BMW 320i, red", None),
            (b"\xff\xd8", None),
            (b"", None),
        ] {
            assert_eq!(read_format(beginning), format, "{beginning:?}");
            assert_eq!(unread_format(beginning), None, "{beginning:?}");
        }
    }

    #[test]
    fn a_format_that_is_not_read_is_told_by_its_name_or_its_first_bytes() {
        for (name, beginning, format) in [
            ("a.HEIC", &b"\0\0\0\x18ftypheic"[..], Some("HEIC")),
            ("a", b"\0\0\0\x18ftypmif1", Some("HEIC")),
            ("a", b"\0\0\0\x1cftypavif", Some("AVIF")),
            ("a.mov", b"\0\0\0\x14ftypqt  ", None),
            ("a.nef", b"MM\0*\0\0\0\x08", Some("RAW")),
            ("scan.TIF", b"II*\0\x08\0\0\0", Some("TIFF")),
            ("scan", b"II*\0\x08\0\0\0", Some("TIFF")),
            ("a.gif", b"GIF89a\x01\0\x01\0", Some("GIF")),
            ("notes.txt", b"GIF is a format", None),
            ("gif", b"a list of words", None),
            ("", b"", None),
        ] {
            assert_eq!(unread_file(name, beginning), format, "{name} {beginning:?}");
        }
    }
}
