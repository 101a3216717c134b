"""Token files, packing and text: what is written is read, or refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaletorch.data import (BytesTokenizer, PackedTokens, TokenFile,
                             TokenWriter, build, load_tokenizer, prepare)
from scaletorch.data.__main__ import main

DOCUMENTS = st.lists(st.lists(st.integers(0, 99), max_size=9),
                     min_size=1,
                     max_size=6).filter(any)


class InFolder(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def tokens(self, *documents: list[int], size: int = 100) -> Path:
        path = self.folder / "tokens"
        with TokenWriter(path, vocabulary_size=size) as writer:
            for document in documents:
                writer.add(document)
        return path

    def refused(self, text: str, path: Path | None = None) -> None:
        with self.assertRaisesRegex((OSError, ValueError), text):
            TokenFile(path or self.folder / "tokens")


class TestTokenFile(InFolder):

    @settings(deadline=None, max_examples=30)
    @given(DOCUMENTS, st.sampled_from([100, 70_000]))
    def test_what_was_written_is_read(self, documents: list[list[int]],
                                      size: int) -> None:
        file = TokenFile(self.tokens(*documents, size=size))
        ends = file.offsets.tolist()
        found = [
            file.tokens[a:b].tolist()
            for a, b in zip(ends, ends[1:], strict=False)
        ]
        self.assertEqual(found, [d for d in documents if d])
        self.assertEqual(file.tokens.dtype.itemsize, 2 if size < 1000 else 4)
        file.check()
        again = pickle.loads(pickle.dumps(file))
        self.assertEqual(again.tokens.tolist(), file.tokens.tolist())
        self.assertLess(len(pickle.dumps(file)), 400)

    def test_missing_files(self) -> None:
        self.refused("tokens.json does not exist; make it with")
        path = self.tokens([1, 2])
        path.with_suffix(".bin").unlink()
        self.refused("tokens.bin does not exist")

    def test_truncated_and_longer(self) -> None:
        data = self.tokens([1, 2, 3]).with_suffix(".bin")
        whole = data.read_bytes()
        for broken in (whole[:-1], whole + b"x", b""):
            data.write_bytes(broken)
            self.refused("tokens.bin has .* bytes, but its header tokens.json "
                         "says .*truncated")

    def test_corrupt(self) -> None:
        data = self.tokens([1, 2, 3, 4]).with_suffix(".bin")
        whole = data.read_bytes()
        data.write_bytes(bytes([9]) + whole[1:])
        with self.assertRaisesRegex(ValueError, "tokens.bin is corrupt: its "
                                    "checksum"):
            TokenFile(data).check()
        data.write_bytes(whole[:-8] + bytes(8))
        self.refused("tokens.bin is corrupt: its documents")

    def test_headers(self) -> None:
        header = self.tokens([1, 2, 3]).with_suffix(".json")
        good = json.loads(header.read_text())
        for change, text in (({
                "format": "x"
        }, "no header of tokens"), ({
                "version": 9
        }, "has version 9, not 1"), ({
                "tokens": "3"
        }, "no int 'tokens'"), ({
                "dtype": "object"
        }, "corrupt: 3 tokens of "
                                "object"), ({
                                    "documents": 0
                                }, "in 0 documents")):
            header.write_text(json.dumps({**good, **change}))
            self.refused(f"tokens.json .*{text}")
        header.write_text("{")
        self.refused("tokens.json is no JSON")

    def test_failing_leaves_what_was_there(self) -> None:
        path = self.tokens([1, 2, 3])
        for bad, text in (([100], "has the token 100, but the vocabulary has "
                           "100"), ([-1], "has the token -1")):
            with self.assertRaisesRegex(ValueError, text), TokenWriter(
                    path, vocabulary_size=100) as writer:
                writer.add([5])
                writer.add(bad)
        with self.assertRaisesRegex(ValueError, "no tokens to write"), \
                TokenWriter(path, vocabulary_size=100):
            pass
        self.assertEqual(TokenFile(path).tokens.tolist(), [1, 2, 3])
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()),
                         ["tokens.bin", "tokens.json"])


class TestPacking(unittest.TestCase):

    def made(self,
             texts: list[list[int]],
             length: int,
             *,
             documents: str = "join",
             shift: bool = False) -> PackedTokens:
        return PackedTokens(np.array([t for text in texts for t in text],
                                     np.uint16),
                            np.cumsum([0, *map(len, texts)]),
                            sequence_length=length,
                            documents=documents,
                            shift=shift)

    def test_joined(self) -> None:
        source = self.made([[1, 2, 3], [4, 5], [6, 7]], 3)
        self.assertEqual(len(source), 2)
        self.assertEqual(source[1]["tokens"].tolist(), [4, 5, 6])
        self.assertEqual(source[1]["labels"].tolist(), [4, 5, 6])

    def test_shifted(self) -> None:
        source = self.made([[1, 2, 3], [4, 5], [6, 7]], 3, shift=True)
        self.assertEqual(len(source), 2)
        self.assertEqual(source[1]["tokens"].tolist(), [4, 5, 6])
        self.assertEqual(source[1]["labels"].tolist(), [5, 6, 7])

    def test_documents_apart(self) -> None:
        documents = [[1, 2, 3], [4, 5, 6, 7], [8]]
        first = self.made(documents, 4, documents="mask")[0]
        second = self.made(documents, 4, documents="mask")[1]
        self.assertEqual(first["labels"].tolist(), [1, 2, 3, -100])
        self.assertEqual(first["position_ids"].tolist(), [0, 1, 2, 0])
        self.assertEqual(second["position_ids"].tolist(), [0, 1, 2, 0])
        self.assertEqual(
            first["attention_mask"][0].int().tolist(),
            [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
        shifted = self.made(documents, 3, documents="reset", shift=True)[0]
        self.assertEqual(shifted["labels"].tolist(), [2, 3, -100])
        self.assertNotIn("attention_mask", shifted)

    @settings(deadline=None, max_examples=40)
    @given(DOCUMENTS, st.integers(1, 5), st.booleans())
    def test_against_documents_one_by_one(self, documents: list[list[int]],
                                          length: int, shift: bool) -> None:
        flat = [(n, t) for n, d in enumerate(documents) for t in d]
        if len(flat) - shift < length:
            return
        source = self.made(documents, length, documents="mask", shift=shift)
        for index in range(len(source)):
            start = index * length
            own = flat[start:start + length]
            found = source[index]
            for place, (number, _) in enumerate(own):
                same = [n == number for n, _ in own]
                self.assertEqual(found["position_ids"][place],
                                 sum(same[:place]))
                self.assertEqual(
                    found["attention_mask"][0, place].tolist(),
                    [s and k <= place for k, s in enumerate(same)])
                at = start + place + shift
                joined = (place + shift == 0 or flat[at][0] == flat[at - 1][0])
                self.assertEqual(found["labels"][place],
                                 flat[at][1] if joined else -100)

    def test_refusals(self) -> None:
        with self.assertRaisesRegex(
                ValueError, "has 2 tokens, too few for "
                "one sequence of 3"):
            self.made([[1, 2]], 3)
        with self.assertRaisesRegex(ValueError, "documents must be one of"):
            self.made([[1, 2]], 1, documents="cut")


class TestText(InFolder):

    def texts(self) -> list[Path]:
        return [
            self.file("a.txt", "héllo\nworld\n"),
            self.file("b.jsonl", '{"text": "abc", "n": 1}\n\n{"text": "d"}\n')
        ]

    def test_prepared_and_in_memory_are_the_same(self) -> None:
        prepare(self.texts(), self.folder / "out")
        common = {"sequence_length": 4, "batch_size": 1, "shuffle": False}
        found = [
            torch.cat([b["tokens"][0] for b in build({**common, **c})])
            for c in ({"kind": "tokens", "path": str(self.folder / "out")},
                      {"kind": "text", "path": str(self.folder)})
        ]  # yapf: disable
        self.assertEqual(found[0].tolist(), found[1].tolist())
        self.assertEqual(BytesTokenizer().decode(found[0].tolist()),
                         "héllo\nworld\nabcd"[:len(found[0])])

    def test_lines_as_documents(self) -> None:
        file = prepare(self.texts()[:1], self.folder / "out", split="line")
        self.assertEqual(file.offsets.tolist(), [0, 7, 13])

    def test_workers_read_the_file(self) -> None:
        prepare(self.texts(), self.folder / "out")
        config = {
            "kind": "tokens",
            "path": str(self.folder / "out"),
            "sequence_length": 3,
            "batch_size": 2
        }
        found = [[
            b["tokens"].tolist() for b in build({
                **config, "workers": n
            })
        ] for n in (0, 1)]
        self.assertEqual(found[0], found[1])
        ordered = next(iter(build({**config, "shuffle": False})))
        source = pickle.loads(pickle.dumps(build(config).source))
        self.assertIsInstance(source, PackedTokens)
        self.assertEqual(source[1]["tokens"].tolist(),
                         ordered["tokens"][1].tolist())

    def check(self, text: str, *files: Path, **options: str) -> None:
        with self.assertRaisesRegex((OSError, ValueError), text):
            prepare(files, self.folder / "out", **options)  # type: ignore
        self.assertFalse((self.folder / "out.bin").exists())

    def test_errors_name_the_file_and_line(self) -> None:
        self.check("b.jsonl, line 2: no JSON",
                   self.file("b.jsonl", '{"text": "a"}\n{"text": '))
        self.check("b.jsonl, line 1: there is no text 'text', only body",
                   self.file("b.jsonl", '{"body": "a"}\n'))
        self.check("b.jsonl, line 1: there is no text 'text', only list",
                   self.file("b.jsonl", "[1]\n"))
        self.check("c.txt is empty", self.file("c.txt", ""))
        self.check("c.txt, line 2: this is no UTF-8",
                   self.file("c.txt", b"ok\n\xff\xfe\n"))
        self.check("none does not exist", self.folder / "none")
        (self.folder / "bare").mkdir()
        self.check("bare has no .txt or .jsonl", self.folder / "bare")

    def test_the_command(self) -> None:
        path = self.texts()[0]
        output = io.StringIO()
        errors = io.StringIO()
        name = str(self.folder / "out")
        with contextlib.redirect_stdout(output), \
                contextlib.redirect_stderr(errors):
            self.assertEqual(
                main(["prepare", "--input",
                      str(path), "--output", name]), 0)
            self.assertEqual(main(["check", name]), 0)
            self.assertEqual(errors.getvalue(), "", "a bar outside terminals")
            self.assertEqual(main(["show", name + "x"]), 1)
        self.assertEqual(
            output.getvalue().splitlines(),
            ["14 tokens in 1 documents, uint16, vocabulary of 257 (bytes)"] *
            2)
        self.assertRegex(errors.getvalue(), "error: .*outx.json does not")


class TestTokenizers(InFolder):

    def test_bytes(self) -> None:
        made = load_tokenizer("bytes")
        text = "naïve 漢字"
        self.assertEqual(made.decode(made.encode([text])[0]), text)
        with self.assertRaisesRegex(ValueError, "leave the end token out"):
            load_tokenizer("bytes", end="</s>")

    def test_a_file(self) -> None:
        try:
            import tokenizers
        except ImportError:
            self.skipTest("the package tokenizers is not installed")
        inner = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({
                "[UNK]": 0,
                "a": 1,
                "b": 2,
                "</s>": 3
            }, "[UNK]"))
        inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        path = str(self.folder / "words.json")
        inner.save(path)
        made = load_tokenizer(path)
        self.assertEqual((made.encode(["a b c"]), made.end), ([[1, 2, 0]], 3))
        file = prepare([self.file("t.txt", "b a")],
                       self.folder / "out",
                       tokenizer=path)
        self.assertEqual(file.tokens.tolist(), [2, 1, 3])
        self.assertEqual(file.tokenizer, "words.json")
        with self.assertRaisesRegex(ValueError, "has no token '<end>'"):
            load_tokenizer(path, end="<end>")
        with self.assertRaisesRegex(ValueError, "bad.json is no tokenizer"):
            load_tokenizer(self.file("bad.json", "{}"))

    def test_what_is_missing(self) -> None:
        with self.assertRaisesRegex(FileNotFoundError, "no tokenizer /no"):
            load_tokenizer("/no/file.json")
        path = self.file("words.json", "{}")
        with mock.patch.dict("sys.modules", {"tokenizers": None}):
            with self.assertRaisesRegex(ImportError, "pip install tokenizers"):
                load_tokenizer(path)


if __name__ == "__main__":
    unittest.main()
