"""The model in the package, as others read it: the gguf package, transformers, tokenizers, llama.cpp."""

import json

import numpy as np
import pytest
import torch

import scratchlm
from scratchlm.inference.gguf import GGUF, to_hf
from scratchlm.workshop.coder import SHOWN, shipped

FILE = shipped() / "coder-tiny.gguf"
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def lm():
    return scratchlm.load("tiny", tier="numpy")


def test_the_gguf_package_reads_it():
    gguf = pytest.importorskip("gguf")
    ours = GGUF(FILE)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(FILE).tensors}
    assert theirs.keys() == ours.tensors.keys()
    for name, tensor in theirs.items():
        same = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(same.reshape(-1), ours.tensor(name).reshape(-1)), name


def test_transformers_computes_the_same(lm):
    transformers = pytest.importorskip("transformers")
    settings, state = to_hf(GGUF(FILE))
    known = {key: value for key, value in settings.items() if key not in ("architectures", "model_type")}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**known)).eval()
    model.load_state_dict({name: torch.tensor(state[name]) for name in state}, strict=False)
    for request in SHOWN:
        ids = lm.tokenizer.encode(CHAT.format(request))
        with torch.no_grad():
            theirs = model(torch.tensor([ids])).logits[0].numpy()
        ours = lm.logits(ids)
        assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()
        assert (ours.argmax(1) == theirs.argmax(1)).all()


def test_tokenizers_encodes_the_same(lm):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(lm.tokenizer.to_tokenizer_json()))
    texts = [CHAT.format(request) for request in SHOWN]
    texts += ["def f(x):\n    return x[1025:]  # äöü 你好\n\n\n", "<|fim_prefix|>a<|fim_suffix|>b"]
    for text in texts:
        assert lm.tokenizer.encode(text) == theirs.encode(text).ids
        assert lm.tokenizer.decode(lm.tokenizer.encode(text)) == text


def test_llama_cpp_answers_the_same(lm):
    llama_cpp = pytest.importorskip("llama_cpp")
    other = llama_cpp.Llama(str(FILE), n_ctx=512, n_threads=2, verbose=False)
    same = 0
    for request in SHOWN:
        prompt = CHAT.format(request)
        assert other.tokenize(prompt.encode(), add_bos=False, special=True) == lm.tokenizer.encode(prompt)
        theirs = other.create_completion(prompt, max_tokens=60, temperature=0.0, stop=["<|im_end|>"])
        ours = lm.generate(lm.tokenizer.encode(prompt), 60)
        same += theirs["choices"][0]["text"] == lm.tokenizer.decode(ours)
    assert same >= len(SHOWN) - 1  # a tie may be decided otherwise
