//! How sentence-transformers makes one vector of a text's: the files it puts beside a checkpoint.
//!
//! `modules.json` lists what a text goes through. The transformer, the pooling and the normalization are computed here;
//! a list with anything else is refused, as its vectors would be wrong.

use std::path::Path;

use serde_json::Value;
use thumbformer::blob::header::Pooling;

use crate::config::Config;
use crate::{Error, Result};

/// Where the pooling is described if there is no list of modules.
const POOLING: &str = "1_Pooling";

/// How the vectors of a checkpoint in `folder` are pooled; `None` if nothing there says it.
///
/// # Errors
/// A file that is not what it should be; a module or a pooling that is not computed.
pub fn pooling(folder: &Path) -> Result<Option<Pooling>> {
    let list = folder.join("modules.json");
    if !list.is_file() {
        return read(&folder.join(POOLING).join("config.json"));
    }
    let text = std::fs::read(&list).map_err(Error::io(&list))?;
    let modules: Value = serde_json::from_slice(&text).map_err(|e| Error::format(&list, format!("not JSON: {e}")))?;
    let fields = serde_json::Map::from_iter([("modules".to_owned(), modules)]);
    let mut pooling = None;
    for module in Config::new(&list, "", fields).objects("modules")? {
        let kind = module.string("type")?.unwrap_or_default();
        match kind.rsplit('.').next() {
            Some("Transformer" | "Normalize") => {}
            Some("Pooling") => {
                let path = folder.join(module.string("path")?.unwrap_or(POOLING)).join("config.json");
                if !path.is_file() {
                    return Err(Error::format(&path, "no such file, expected what modules.json names"));
                }
                pooling = read(&path)?;
            }
            _ => return Err(module.error("type", "a Transformer, Pooling or Normalize: no other module is computed")),
        }
    }
    Ok(pooling)
}

/// A pooling module's configuration; `None` if there is none, or it leaves the pooling open.
fn read(path: &Path) -> Result<Option<Pooling>> {
    if !path.is_file() {
        return Ok(None);
    }
    let config = Config::read(path)?;
    let named = |mode: &str| match mode {
        "mean" | "pooling_mode_mean_tokens" => Some(Pooling::Mean),
        "cls" | "pooling_mode_cls_token" => Some(Pooling::First),
        _ => None,
    };
    let expected = "a pooling of mean or cls alone";
    if let Some(mode) = config.string("pooling_mode")? {
        return named(mode).map(Some).ok_or_else(|| config.error("pooling_mode", expected));
    }
    let mut found = None;
    for (field, value) in config.fields().filter(|(field, _)| field.starts_with("pooling_mode_")) {
        if value.as_bool() == Some(false) {
            continue;
        }
        // Several are put one behind the other.
        match named(field).filter(|_| found.is_none() && value.as_bool() == Some(true)) {
            Some(pooling) => found = Some(pooling),
            None => return Err(config.error(field, expected)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder(modules: Option<Value>, config: &Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        if let Some(modules) = modules {
            std::fs::write(folder.path().join("modules.json"), modules.to_string()).unwrap();
        }
        std::fs::create_dir(folder.path().join(POOLING)).unwrap();
        std::fs::write(folder.path().join(POOLING).join("config.json"), config.to_string()).unwrap();
        folder
    }

    fn of(modules: Option<Value>, config: &Value) -> Result<Option<Pooling>> {
        pooling(folder(modules, config).path())
    }

    fn module(kind: &str, path: &str) -> Value {
        json!({"type": format!("sentence_transformers.models.{kind}"), "path": path})
    }

    #[test]
    fn what_the_files_say() {
        let (mean, cls) = (json!({"pooling_mode_mean_tokens": true}), json!({"pooling_mode_cls_token": true}));
        assert_eq!(of(None, &mean).unwrap(), Some(Pooling::Mean));
        assert_eq!(of(None, &cls).unwrap(), Some(Pooling::First));
        assert_eq!(of(None, &json!({"pooling_mode": "cls"})).unwrap(), Some(Pooling::First));
        assert_eq!(of(None, &json!({"pooling_mode_max_tokens": false})).unwrap(), None);
        let modules = json!([module("Transformer", ""), module("Pooling", POOLING), module("Normalize", "2")]);
        assert_eq!(of(Some(modules), &cls).unwrap(), Some(Pooling::First));
        assert_eq!(of(Some(json!([module("Transformer", "")])), &cls).unwrap(), None);
        assert_eq!(pooling(tempfile::tempdir().unwrap().path()).unwrap(), None);
    }

    #[test]
    fn what_is_not_computed_is_refused() {
        let refused = |modules: Option<Value>, config: Value, words: [&str; 2]| {
            let error = of(modules, &config).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        };
        refused(None, json!({"pooling_mode_max_tokens": true}), ["pooling_mode_max_tokens", "mean or cls"]);
        refused(None, json!({"pooling_mode": "lasttoken"}), ["lasttoken", "mean or cls"]);
        let both = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true});
        refused(None, both, ["pooling_mode_", "alone"]);
        refused(None, json!({"pooling_mode_cls_token": 1}), ["pooling_mode_cls_token", "mean or cls"]);
        let cls = json!({"pooling_mode_cls_token": true});
        refused(Some(json!([module("Dense", "2_Dense")])), cls.clone(), ["modules[0].type", "models.Dense"]);
        refused(Some(json!([module("Pooling", "9_Pooling")])), cls.clone(), ["9_Pooling", "no such file"]);
        refused(Some(json!({"a": 1})), cls.clone(), ["modules.json", "a list of objects"]);
        refused(Some(json!([3])), cls, ["modules.json", "a list of objects"]);
    }
}
