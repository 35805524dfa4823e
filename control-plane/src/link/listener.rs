//! The socket file that data planes connect to.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Owner and group may connect; the data plane may run as another user of the group.
const MODE: u32 = 0o660;

/// Why the link does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another control plane is there.
    #[error("link_socket {}: another process answers there; stop it, or set another link_socket", .0.display())]
    Taken(PathBuf),
    /// A file that is not ours to remove.
    #[error("link_socket {}: this is a file, not a socket; remove it, or set another link_socket", .0.display())]
    NotASocket(PathBuf),
    /// The folder or the name will not do.
    #[error(
        "link_socket {}: {source}; its folder must be writable and its path shorter than 108 bytes: set another link_socket",
        path.display()
    )]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening socket whose file goes away with it.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`. A file left behind by a process that is gone is replaced; a live one is not.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
            Ok(_) => match StdStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                Ok(_) => return Err(BindError::Taken(path.to_owned())),
                Err(error) => return Err(failed(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the link's socket file stays behind");
        }
    }
}
