//! stub
use crate::Result;
use std::path::{Path, PathBuf};
#[derive(Debug, Clone)]
pub struct PackedTokenizer {
    pub section: Vec<u8>,
    pub vocab: u32,
    pub notes: Vec<String>,
    pub path: PathBuf,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}
impl PackedTokenizer {
    pub fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>> {
        Ok(vec![])
    }
    pub fn with_prompt_format(self, _: &str) -> Result<Self> {
        Ok(self)
    }
    pub fn describe(&self) -> String {
        String::new()
    }
    pub fn tokenizer(&self) -> Result<HostTokenizer<'_>> {
        Ok(HostTokenizer(std::marker::PhantomData))
    }
}
pub fn load(_: &Path) -> Result<PackedTokenizer> {
    Err(crate::Error::Usage("stub".into()))
}
pub struct Files;
pub fn find(_: &Path) -> Option<Files> {
    None
}
pub fn load_files(_: &Files) -> Result<PackedTokenizer> {
    Err(crate::Error::Usage("stub".into()))
}
pub struct HostTokenizer<'a>(std::marker::PhantomData<&'a ()>);
pub struct Stream;
impl Stream {
    pub fn push(&mut self, _: u32) -> String {
        String::new()
    }
    pub fn finish(self) -> String {
        String::new()
    }
}
impl<'a> HostTokenizer<'a> {
    pub fn new(_: thumbformer::tokenizer::Tokenizer<'a>) -> Self {
        Self(std::marker::PhantomData)
    }
    pub fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>> {
        Ok(vec![])
    }
    pub fn encode_prompt(&self, _: &str) -> Result<Vec<u32>> {
        Ok(vec![])
    }
    pub fn decode(&self, _: &[u32]) -> String {
        String::new()
    }
    pub fn stream(&self) -> Stream {
        Stream
    }
    pub fn describe(&self) -> String {
        String::new()
    }
}
