//! The state file: written whole and atomically, soon after a change.

use crate::{cloud::Cloud, world::World};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The world in the file at `path`; `None` when there is no file.
///
/// # Errors
/// When the file cannot be read or is no world.
pub(crate) fn load(path: &Path) -> io::Result<Option<World>> {
    match fs::read(path) {
        Ok(bytes) => {
            let bad = |err| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {err}", path.display()));
            serde_json::from_slice(&bytes).map(Some).map_err(bad)
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Save the world if it changed.
///
/// # Errors
/// When the file cannot be written; the next call tries again.
pub(crate) fn save(cloud: &Cloud, path: &Path) -> io::Result<()> {
    let world = {
        let mut state = cloud.state();
        if !std::mem::take(&mut state.dirty) {
            return Ok(());
        }
        state.world.clone()
    };
    let written = serde_json::to_vec_pretty(&world)
        .map_err(io::Error::from)
        .and_then(|bytes| replace(path, &bytes, 0o600));
    if written.is_err() {
        cloud.state().dirty = true;
    }
    written
}

/// Save the world every now and then, for ever.
pub(crate) async fn keep_saved(cloud: Arc<Cloud>, path: PathBuf) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (cloud, path) = (cloud.clone(), path.clone());
        let saved = tokio::task::spawn_blocking(move || save(&cloud, &path).map_err(|err| (path, err))).await;
        if let Ok(Err((path, err))) = saved {
            eprintln!("cannot save the state in {}: {err}", path.display());
        }
    }
}

/// Replace the file at `path`, with these permissions, so that a reader sees the old or the new content, never less.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut file, bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.persist(path).map_err(|err| err.error)?;
    Ok(())
}

const INTERVAL: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_world_loads_and_rubbish_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert!(load(&path).unwrap().is_none());
        let issuing = crate::est::Issuing::open(dir.path()).unwrap();
        let cloud = Cloud::new(World::new("s", &["h".into()], 1), issuing);
        save(&cloud, &path).unwrap();
        assert_eq!(load(&path).unwrap().unwrap().hub_names(), ["h"]);
        fs::remove_file(&path).unwrap();
        save(&cloud, &path).unwrap();
        assert!(!path.exists(), "nothing changed, nothing is written");
        fs::write(&path, "{").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("state.json"));
    }
}
