//! The operator's token.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

use crate::access::secret;

/// Random bytes of a new token; written as twice as many hexadecimal digits.
const RANDOM_BYTES: usize = 32;
/// Shortest token accepted: a hand-written one must not be guessed.
const MIN_LEN: usize = 16;

/// What an operator proves to be one with.
pub struct Token(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not readable or not writable.
    #[error("the token file {}: {source}; give this user the right to read and write it, or set another token_file", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a token.
    #[error(
        "the token file {} holds no token: one line of at least {MIN_LEN} visible ASCII characters is needed; delete the file to have a new one made",
        path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
    },
}

impl Token {
    /// Reads the file; makes it, for this user only and with a random token, when it is missing.
    pub fn load_or_create(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::File { path: path.to_owned(), source };
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).ok_or_else(|| TokenError::Content { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = random_hex().map_err(failed)?;
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).map_err(failed)?;
                }
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
                file.write_all(format!("{token}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
                Ok(Self(token))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// A token from a file's text: its only line.
    pub fn parse(text: &str) -> Option<Self> {
        let token = text.trim();
        let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        (token.len() >= MIN_LEN && visible).then(|| Self(token.to_owned()))
    }

    /// Its SHA-256, by which sessions of the console that began with it are known.
    pub(crate) fn hash(&self) -> String {
        secret::hash(&self.0)
    }

    /// Compares in a time that tells nothing but the length.
    pub fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

/// 32 random bytes from the kernel, as hexadecimal digits.
pub(crate) fn random_hex() -> io::Result<String> {
    let mut bytes = [0; RANDOM_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn a_missing_token_is_made_once_and_for_this_user_only() {
        let dir = TempDir::new();
        let path = dir.path().join("deep/token");
        let token = Token::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Token::load_or_create(&path).unwrap().is(token.0.as_bytes()));
        assert!(!token.is(b"") && !token.is(&token.0.as_bytes()[1..]));
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let dir = TempDir::new();
        let path = dir.path().join("token");
        for text in ["", "short\n", "two words that are long enough\n"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(Token::load_or_create(&path), Err(TokenError::Content { .. })), "{text:?}");
        }
    }
}
