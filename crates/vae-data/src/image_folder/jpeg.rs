//! JPEG decoding with libjpeg-turbo, which nearly every other program uses.
//!
//! libjpeg's errors unwind through its C code, which is compiled for that (the feature `unwinding`), with our own
//! payload and without calling the panic hook.

use std::array;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use std::marker::PhantomData;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::slice;

use image::metadata::Orientation;
use mozjpeg_sys::{
    J_COLOR_SPACE, JPEG_LIB_VERSION, JWRN_ADOBE_XFORM, JWRN_BOGUS_PROGRESSION,
    JWRN_EXTRANEOUS_DATA, JWRN_HIT_MARKER, JWRN_JFIF_MAJOR, JWRN_JPEG_EOF, JWRN_NOT_SEQUENTIAL,
    jpeg_CreateDecompress, jpeg_common_struct, jpeg_component_info, jpeg_decompress_struct,
    jpeg_destroy_decompress, jpeg_error_mgr, jpeg_finish_decompress, jpeg_mem_src,
    jpeg_progress_mgr, jpeg_read_header, jpeg_read_scanlines, jpeg_save_markers,
    jpeg_start_decompress, jpeg_std_error,
};

use super::exif;

/// The largest number of scans of a file. Typical progressive files have ten, and one for each coefficient of each
/// color would be 192. Each scan is a pass over all coefficients, so that thousands of empty ones would take minutes.
const MAX_SCANS: c_int = 200;

/// Rows of pixels read at a time: as many as the largest sampling factor produces at once.
const ROWS_AT_ONCE: usize = 4;

/// The segments that contain Exif data.
const APP1: c_int = 0xe1;

/// A segment's largest length.
const LONGEST_SEGMENT: c_uint = 0xffff;

/// `JMSG_LENGTH_MAX`: a message and its terminating 0.
const MESSAGE_BYTES: usize = 200;

/// libjpeg's warnings that do not mean missing or damaged image data.
const HARMLESS: [c_int; 5] = [
    JWRN_ADOBE_XFORM as c_int,
    JWRN_BOGUS_PROGRESSION as c_int,
    JWRN_EXTRANEOUS_DATA as c_int,
    JWRN_JFIF_MAJOR as c_int,
    JWRN_NOT_SEQUENTIAL as c_int,
];

/// A JPEG whose headers were read.
pub(crate) struct Jpeg<'a> {
    /// Points to a boxed [`State`], which must not move: libjpeg's structs point to each other.
    state: *mut State,
    /// libjpeg reads from it, too.
    file: PhantomData<&'a [u8]>,
}

struct State {
    decoder: jpeg_decompress_struct,
    errors: jpeg_error_mgr,
    progress: jpeg_progress_mgr,
}

/// The payload with which libjpeg's callbacks unwind: the problem with the file.
struct Fault(String);

impl Drop for Jpeg<'_> {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from a box and is released only here. A decoder that was not created is all
        // zeros, which libjpeg ignores.
        unsafe {
            let mut state = Box::from_raw(self.state);
            jpeg_destroy_decompress(&mut state.decoder);
        }
    }
}

impl<'a> Jpeg<'a> {
    /// Reads the headers of `file`.
    ///
    /// # Errors
    /// The problem with the headers.
    pub(crate) fn open(file: &'a [u8]) -> Result<Jpeg<'a>, String> {
        // SAFETY: plain C structs, in which zeros are null pointers, absent callbacks and false.
        let state = Box::into_raw(Box::new(unsafe { mem::zeroed::<State>() }));
        let jpeg = Jpeg {
            state,
            file: PhantomData,
        };
        // SAFETY: the state does not move until `jpeg` is dropped, and the file outlives it.
        caught(|| unsafe {
            let (decoder, errors) = (&raw mut (*state).decoder, &raw mut (*state).errors);
            (*decoder).common.err = jpeg_std_error(&mut *errors);
            (*errors).error_exit = Some(error_exit);
            (*errors).emit_message = Some(emit_message);
            let size = mem::size_of::<jpeg_decompress_struct>();
            jpeg_CreateDecompress(decoder, JPEG_LIB_VERSION, size);
            (*state).progress.progress_monitor = Some(check_n_scans);
            (*decoder).common.progress = &raw mut (*state).progress;
            (*decoder).common.client_data = state.cast::<c_void>();
            jpeg_mem_src(&mut *decoder, file.as_ptr(), file.len() as c_ulong);
            jpeg_save_markers(&mut *decoder, APP1, LONGEST_SEGMENT);
            jpeg_read_header(&mut *decoder, 1);
        })?;
        Ok(jpeg)
    }

    fn decoder(&self) -> &jpeg_decompress_struct {
        // SAFETY: it lives as long as `self` and is not changed meanwhile.
        unsafe { &(*self.state).decoder }
    }

    /// Width and height in pixels, before the orientation.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.decoder().image_width, self.decoder().image_height)
    }

    /// The orientation in the first block of Exif data that has one.
    pub(crate) fn orientation(&self) -> Option<Orientation> {
        let mut next = self.decoder().marker_list;
        while !next.is_null() {
            // SAFETY: libjpeg's list, whose data live as long as the decoder.
            let segment = unsafe {
                let marker = &*next;
                next = marker.next;
                slice::from_raw_parts(marker.data, marker.data_length as usize)
            };
            let found = exif::tiff(segment).and_then(exif::orientation);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Replaces the content of `pixels` by the RGB pixels, H·W·3 bytes.
    ///
    /// # Errors
    /// The problem with the file; a missing or damaged part of the image.
    pub(crate) fn decode(self, pixels: &mut Vec<u8>) -> Result<(), String> {
        let (width, height) = self.size();
        let (width, height) = (width as usize, height as usize);
        let has_black = self.decoder().num_components == 4;
        // SAFETY: as in `open`.
        caught(|| unsafe {
            let decoder = &mut (*self.state).decoder;
            decoder.out_color_space = match has_black {
                true => J_COLOR_SPACE::JCS_CMYK,
                false => J_COLOR_SPACE::JCS_RGB,
            };
            // Reads all scans if there are several.
            jpeg_start_decompress(decoder);
        })?;
        self.check_scans()?;
        pixels.clear();
        pixels.reserve_exact(3 * width * height);
        let n_channels = if has_black { 4 } else { 3 };
        let mut rows = vec![0; ROWS_AT_ONCE * n_channels * width];
        let mut n_rows = 0;
        while n_rows < height {
            let start = rows.as_mut_ptr();
            // SAFETY: the pointers are those of whole rows in `rows`.
            let row = |i: usize| unsafe { start.add(i * n_channels * width) };
            let mut pointers: [*mut u8; ROWS_AT_ONCE] = array::from_fn(row);
            let most = (height - n_rows).min(ROWS_AT_ONCE);
            let mut n_read = 0;
            // SAFETY: as in `open`, and there is room for `most` rows.
            caught(|| unsafe {
                let decoder = &mut (*self.state).decoder;
                n_read = jpeg_read_scanlines(decoder, pointers.as_mut_ptr(), most as c_uint);
            })?;
            if n_read == 0 {
                return Err(cut_short("its image data ends early"));
            }
            let read = &rows[..n_read as usize * n_channels * width];
            match has_black {
                true => pixels.extend(read.chunks_exact(4).flat_map(without_black)),
                false => pixels.extend_from_slice(read),
            }
            n_rows += n_read as usize;
        }
        // Reads up to the end marker.
        // SAFETY: as in `open`.
        caught(|| unsafe {
            jpeg_finish_decompress(&mut (*self.state).decoder);
        })
    }

    /// Checks that every component is in a scan; one that is not would be decoded as gray.
    fn check_scans(&self) -> Result<(), String> {
        let decoder = self.decoder();
        // SAFETY: libjpeg's arrays have one entry per component, and 64 numbers for each.
        let is_missing = |i: usize| unsafe {
            let component: &jpeg_component_info = &*decoder.comp_info.add(i);
            let bits = decoder.coef_bits.cast::<c_int>();
            // In a progressive file the number of known bits of coefficient 0; -1 if it is unknown.
            component.quant_table.is_null() || (!bits.is_null() && *bits.add(64 * i) < 0)
        };
        match (0..decoder.num_components as usize).any(is_missing) {
            true => Err(cut_short("it has no data for one of its colors")),
            false => Ok(()),
        }
    }
}

/// Runs code that calls libjpeg, and returns the fault if it ended with one.
fn caught(call: impl FnOnce()) -> Result<(), String> {
    // After a fault the decoder is only destroyed.
    match panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(()) => Ok(()),
        Err(payload) => match payload.downcast::<Fault>() {
            Ok(fault) => Err(fault.0),
            Err(bug) => panic::resume_unwind(bug),
        },
    }
}

fn fail(reason: String) -> ! {
    panic::resume_unwind(Box::new(Fault(reason)))
}

fn cut_short(what: &str) -> String {
    format!("is a JPEG cut short: {what}")
}

/// The RGB of a pixel of cyan, magenta, yellow and black, all inverted as Adobe writes them: the fraction of white
/// that color and black leave.
fn without_black(pixel: &[u8]) -> [u8; 3] {
    let black = u32::from(pixel[3]);
    [pixel[0], pixel[1], pixel[2]].map(|color| {
        // Pillow's rounding: the amount subtracted from `black` is rounded to the nearest integer.
        let taken = (255 - u32::from(color)) * black + 128;
        (black - (((taken >> 8) + taken) >> 8)) as u8
    })
}

/// Called by libjpeg on fatal errors.
unsafe extern "C-unwind" fn error_exit(decoder: &mut jpeg_common_struct) {
    // SAFETY: libjpeg calls this with our decoder.
    let message = unsafe { message(decoder) };
    fail(format!("is a broken JPEG: {message}"));
}

/// Called by libjpeg on warnings, after which it would continue.
unsafe extern "C-unwind" fn emit_message(decoder: &mut jpeg_common_struct, level: c_int) {
    // SAFETY: a part of the state that contains the decoder.
    let code = unsafe { (*decoder.err).msg_code };
    if level >= 0 || HARMLESS.contains(&code) {
        return;
    }
    if code == JWRN_JPEG_EOF as c_int {
        fail(cut_short("it has no end marker"));
    } else if code == JWRN_HIT_MARKER as c_int {
        fail(cut_short("its image data ends early"));
    }
    // SAFETY: same as for this function.
    unsafe { error_exit(decoder) }
}

/// Called between the parts of a file with several scans.
unsafe extern "C-unwind" fn check_n_scans(decoder: &mut jpeg_common_struct) {
    let state = decoder.client_data.cast::<State>();
    // SAFETY: the state that contains the decoder.
    let n_scans = unsafe { (*state).decoder.input_scan_number };
    if n_scans > MAX_SCANS {
        fail(format!("is a broken JPEG: more than {MAX_SCANS} scans"));
    }
}

/// libjpeg's own message.
///
/// # Safety
/// `decoder` must have been created.
unsafe fn message(decoder: &mut jpeg_common_struct) -> String {
    /// The C signature, with a buffer of [`MESSAGE_BYTES`].
    type Format = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut c_char);
    let mut buffer = [0; MESSAGE_BYTES];
    // SAFETY: the callback is libjpeg's own, which terminates the text with 0.
    unsafe {
        let Some(format) = (*decoder.err).format_message else {
            return "no reason".to_owned();
        };
        let format: Format = mem::transmute(format);
        format(decoder, buffer.as_mut_ptr());
        CStr::from_ptr(buffer.as_ptr())
            .to_string_lossy()
            .into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::super::decode::Decoder;

    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Wanted {
        Good { size: [u32; 2], crc32: u32 },
        Bad { bad: String },
    }

    /// tests/photos/odd/make.py made the files and the expected pixels with Pillow.
    #[test]
    fn odd_files_have_the_pixels_that_pillow_reads_and_damaged_ones_are_bad() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/photos/odd");
        let wanted = fs::read_to_string(folder.join("pixels.json")).unwrap();
        let wanted: BTreeMap<String, Wanted> = serde_json::from_str(&wanted).unwrap();
        assert!(wanted.len() > 50);
        let mut decoder = Decoder::new(10_000);
        let mut wrong = Vec::new();
        for (name, wanted) in wanted {
            let file = fs::read(folder.join(&name)).unwrap();
            let found = decoder.decode(&file);
            let is_right = match (&found, wanted) {
                (Ok(image), Wanted::Good { size, crc32 }) => {
                    [image.width, image.height] == size && crc32fast::hash(image.pixels) == crc32
                }
                (Err(reason), Wanted::Bad { bad }) => reason.contains(&bad),
                _ => false,
            };
            if !is_right {
                wrong.push(format!("{name}: {:?}", found.map(|image| image.width)));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
