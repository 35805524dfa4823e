//! A PostgreSQL of this test process's own, with a database for each test. `tests/real_process` has this file, too.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

/// Longest wait for the server to start.
const START_WAIT: Duration = Duration::from_secs(30);
/// Another process may take the port that was free.
const ATTEMPTS: u32 = 5;
/// Of the user that needs it; the others are trusted.
pub(crate) const PASSWORD: &str = "open sesame";

/// A running server. It ends when this process does, however that ends.
pub(crate) struct Server {
    port: u16,
    /// The certificate that its own is signed by: itself.
    pub(crate) certificate: PathBuf,
    /// The watcher ends the server when this closes.
    _alive: ChildStdin,
    _watcher: Child,
}

/// The server of this process; none when PostgreSQL is not installed, which is noted as a skip.
pub(crate) fn server(test: &str) -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| programs().map(|bin| Server::start(&bin))).as_ref();
    if server.is_none() {
        skip(test, "PostgreSQL is not installed (initdb in /usr/lib/postgresql/*/bin or PATH)");
    }
    server
}

impl Server {
    /// A new, empty database; its URL.
    pub(crate) fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.admin().batch_execute(&format!("CREATE DATABASE {name} STRATEGY file_copy")).unwrap();
        self.url("tester", &name)
    }

    /// The URL of `database` for `user`, such as `tester`, who is trusted, or `guarded:PASSWORD`.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Someone who may do everything.
    pub(crate) fn admin(&self) -> Client {
        Client::connect(&self.url("tester", "postgres"), NoTls).unwrap()
    }

    fn start(bin: &Path) -> Self {
        let server = (0..ATTEMPTS).find_map(|attempt| Self::attempt(bin, attempt)).expect("PostgreSQL starts");
        server.admin().batch_execute(&format!("CREATE USER guarded PASSWORD '{PASSWORD}'")).unwrap();
        server
    }

    fn attempt(bin: &Path, attempt: u32) -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("shoal-pg-{}-{attempt}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).unwrap();
        let user = unprivileged();
        if let Some((uid, gid)) = user {
            chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let data = dir.join("data");
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.args([
            "--username=tester",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--pgdata",
        ]);
        let output = as_user(initdb.arg(&data), user).output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let rules = "host all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
        fs::write(data.join("pg_hba.conf"), rules).unwrap();
        // Nothing here outlives the process: no need to wait for the disk. Many tests run at once.
        let settings = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nmax_connections = 400\n\
                        unix_socket_directories = ''\nlisten_addresses = '127.0.0.1, 127.0.0.2'\nautovacuum = off\nssl = on\n";
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        for (name, text) in [("server.crt", made.cert.pem()), ("server.key", made.signing_key.serialize_pem())] {
            let path = data.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = user {
                chown(&path, Some(uid), Some(gid)).unwrap();
            }
        }
        let mut file = File::options().append(true).open(data.join("postgresql.conf")).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::run(bin, &dir, port, user)
    }

    /// Runs it under a shell that ends it, and removes its folder, as soon as this process is gone.
    fn run(bin: &Path, dir: &Path, port: u16, user: Option<(u32, u32)>) -> Option<Self> {
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let script = "\"$1/postgres\" -D \"$2/data\" -p \"$3\" & server=$!\n\
                      read _\nkill -INT $server\nwait $server\nrm -rf \"$2\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(bin).arg(dir).arg(port.to_string());
        shell.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        let mut watcher = as_user(&mut shell, user).spawn().unwrap();
        let alive = watcher.stdin.take().unwrap();
        let certificate = dir.join("data/server.crt");
        let server = Self { port, certificate, _alive: alive, _watcher: watcher };
        let start = Instant::now();
        while start.elapsed() < START_WAIT {
            if Client::connect(&server.url("tester", "postgres"), NoTls).is_ok() {
                return Some(server);
            }
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            if log.contains("FATAL:  could not create any TCP/IP sockets") {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        println!("{}", fs::read_to_string(dir.join("log")).unwrap_or_default());
        None
    }
}

/// The folder of PostgreSQL's programs, which Debian keeps out of PATH; of the newest release.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Ok(releases) = fs::read_dir("/usr/lib/postgresql") {
        let mut releases: Vec<PathBuf> = releases.flatten().map(|release| release.path().join("bin")).collect();
        releases.sort();
        folders.extend(releases.into_iter().rev());
    }
    folders.into_iter().find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

/// PostgreSQL does not run as root: user and group to run it as, if this is root.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(ids("postgres").or_else(|| ids("nobody")).unwrap())
}

fn as_user(command: &mut Command, user: Option<(u32, u32)>) -> &mut Command {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").env_remove("PGDATA").env("LC_ALL", "C.UTF-8")
}

/// Notes that `test` did not run, and why, as all tests of the workspace do.
pub(crate) fn skip(test: &str, reason: &str) {
    println!("skipped {test}: {reason}");
    if let Some(path) = std::env::var_os("SHOAL_SKIP_FILE") {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}
