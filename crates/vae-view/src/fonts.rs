//! The fonts of plots, embedded, since a bare container has none.

use std::sync::Once;

use plotters::prelude::*;
use plotters::style::register_font;

pub(crate) const FAMILY: &str = "Inter";

/// The factor by which plots are drawn larger and then averaged, since the plotter does not antialias thick lines.
pub(crate) const SCALE: u32 = 2;

pub(crate) fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An unreadable font shows as an error when text is first drawn with it.
        let _ = register_font(
            FAMILY,
            FontStyle::Normal,
            include_bytes!("../fonts/Inter-Regular.ttf"),
        );
        let _ = register_font(
            FAMILY,
            FontStyle::Bold,
            include_bytes!("../fonts/Inter-SemiBold.ttf"),
        );
    });
}
