//! No text makes the configuration's reader panic or hang; what it accepts, it writes so that it
//! reads the same again.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ringway::config;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Secrets are read from files, which are none of a fuzzer's business.
    if text.contains("_file") || text.contains("_env") {
        return;
    }
    if let Ok(loaded) = config::load_str(text, "fuzz.yaml", Path::new("/nonexistent")) {
        let written = config::to_yaml(&loaded.settings);
        let again = config::load_str(&written, "again.yaml", Path::new("/nonexistent"));
        assert_eq!(again.map(|l| l.settings).map_err(|e| e.to_string()), Ok(loaded.settings));
    }
});
