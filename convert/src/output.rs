//! Output files that appear whole or not at all.
//!
//! On Linux the file has no name until it is finished, so that even a killed process leaves nothing behind; elsewhere it
//! has a temporary one in the same folder, removed when the program fails.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Result};

/// A file that is being written.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    replace: bool,
    file: Unfinished,
}

#[derive(Debug)]
enum Unfinished {
    #[cfg(target_os = "linux")]
    Unnamed(File),
    Named(NamedTempFile),
}

impl Output {
    /// Starts a file that will be called `path`. A link is followed: the file it leads to is replaced, not the link.
    ///
    /// # Errors
    /// It exists and may not be replaced, or is a folder, a device or another thing that is no file; its folder does not
    /// exist or is not writable.
    pub fn create(path: &Path, replace: bool) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::format(path, "a folder, expected the name of a file to write"));
        }
        // The finished file takes its name by a rename, which would put it in a device's or a pipe's place.
        if path.exists() && !path.is_file() {
            return Err(Error::format(path, "not a regular file: the result can only be written to one"));
        }
        if !replace && path.exists() {
            return Err(exists(path));
        }
        if !folder(path).is_dir() {
            return Err(Error::format(path, format!("there is no folder {} to write it to", folder(path).display())));
        }
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let file = unfinished(folder(&path)).map_err(Error::io(&path))?;
        Ok(Self { path, replace, file })
    }

    /// The file, for reading and writing.
    pub fn file(&mut self) -> &mut File {
        match &mut self.file {
            #[cfg(target_os = "linux")]
            Unfinished::Unnamed(file) => file,
            Unfinished::Named(file) => file.as_file_mut(),
        }
    }

    /// Gives the finished file its name.
    ///
    /// # Errors
    /// The system refuses, or a file of that name has appeared meanwhile and may not be replaced.
    pub fn commit(mut self) -> Result<()> {
        self.file().sync_all().map_err(Error::io(&self.path))?;
        match self.file {
            #[cfg(target_os = "linux")]
            Unfinished::Unnamed(file) => link(&file, &self.path, self.replace),
            Unfinished::Named(file) if self.replace => {
                file.persist(&self.path).map(drop).map_err(|e| Error::io(&self.path)(e.error))
            }
            Unfinished::Named(file) => file.persist_noclobber(&self.path).map(drop).map_err(|e| match e.error.kind() {
                std::io::ErrorKind::AlreadyExists => exists(&self.path),
                _ => Error::io(&self.path)(e.error),
            }),
        }
    }
}

fn exists(path: &Path) -> Error {
    Error::Usage(format!("{} exists: use --force to replace it, or -o to write elsewhere", path.display()))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(target_os = "linux")]
fn unfinished(folder: &Path) -> std::io::Result<Unfinished> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => Ok(Unfinished::Unnamed(file.into())),
        // Not every file system can do it.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => named(folder),
        Err(e) => Err(e.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn unfinished(folder: &Path) -> std::io::Result<Unfinished> {
    named(folder)
}

fn named(folder: &Path) -> std::io::Result<Unfinished> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // Like any file a program creates, not readable by the user alone.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".thumb-").tempfile_in(folder).map(Unfinished::Named)
}

#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path, replace: bool) -> Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = |to: &Path| linkat(CWD, unnamed.as_str(), CWD, to, AtFlags::SYMLINK_FOLLOW);
    match link(path) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) if replace => {
            // A link cannot replace a file, a rename can.
            let beside = folder(path).join(format!(".thumb-{}", std::process::id()));
            // What a killed process of the same number may have left.
            let _ = std::fs::remove_file(&beside);
            link(&beside).map_err(|e| Error::io(path)(e.into()))?;
            std::fs::rename(&beside, path).map_err(|e| {
                let _ = std::fs::remove_file(&beside);
                Error::io(path)(e)
            })
        }
        Err(rustix::io::Errno::EXIST) => Err(exists(path)),
        Err(e) => Err(Error::io(path)(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_appears_only_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.thumb");
        let mut output = Output::create(&path, false).unwrap();
        output.file().write_all(b"half").unwrap();
        drop(output);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        let mut output = Output::create(&path, false).unwrap();
        output.file().write_all(b"whole").unwrap();
        output.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn a_file_is_replaced_only_if_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.thumb");
        let late = Output::create(&path, false).unwrap();
        std::fs::write(&path, b"old").unwrap();
        assert!(matches!(Output::create(&path, false), Err(Error::Usage(_))));
        assert!(matches!(late.commit(), Err(Error::Usage(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let mut output = Output::create(&path, true).unwrap();
        output.file().write_all(b"new").unwrap();
        output.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = Output::create(Path::new("/nonexistent/x.thumb"), false).unwrap_err();
        assert_eq!(error.to_string(), "/nonexistent/x.thumb: there is no folder /nonexistent to write it to");
    }

    #[cfg(unix)]
    #[test]
    fn only_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, problem) in [(socket.as_path(), "not a regular file"), (folder.path(), "a folder")] {
            for replace in [false, true] {
                let error = Output::create(path, replace).unwrap_err();
                assert!(error.to_string().contains(problem), "{error}");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_links() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("x.thumb"), folder.path().join("link.thumb"));
        std::fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink("x.thumb", &link).unwrap();
        let mut output = Output::create(&link, true).unwrap();
        output.file().write_all(b"new").unwrap();
        output.commit().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
    }
}
