"""The texts that tokenizers are tested on: written out, by Unicode block, and drawn from a seeded generator."""

import random

WRITTEN = [
    "", " ", "  ", "   ", "    ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t  \t", " \n", "\n ", " \n \n  \n",
    "Hello", " Hello", "  Hello", "Hello ", "Hello  ", "hello world", "Hello, world!", "HELLO WORLD",
    "The quick brown fox jumps over the lazy dog.", "I'm, you're, we've, it's, they'll, he'd, don't",
    "I'M YOU'RE WE'VE IT'S THEY'LL HE'D DON'T", "'s't're've'm'll'd", "''s  ''", "rock'n'roll", "\u017ft 'ſ 'S",
    "0", "1", "12", "123", "1234", "12345", "123456", "1234567", "3.14159", "1,000,000", "0x1F", "1e-9", "2024-02-29",
    "a1b2c3", "v1.2.3-rc4", "IPv6 ::1", "½ ¾ ² ³ ¹ Ⅷ ⑩ ㊿ ൰", "١٢٣٤٥ ०१२३ 𝟘𝟙𝟚",
    "int main(void) {\n    return 0;\n}\n", "for (size_t i = 0; i < n; i++) a[i] += b[i] * c[i];",
    "def f(x):\n\treturn x ** 2  # square\n", "#include <stdio.h>\r\n#define X(a) ((a) + 1)\r\n",
    "<div class=\"x\">&nbsp;</div>", "SELECT * FROM t WHERE a = 'b';", "{\"key\": [1, 2.5, null, true]}",
    "https://example.org/path?query=1&x=%20#frag", "user.name+tag@example.co.uk", "C:\\Windows\\System32",
    "/usr/local/bin", "a/b//c///d", "...", "....", "!!!???", "$%^&*()", "--- +++ === ***", "a-b_c.d",
    "\u00a0nbsp\u00a0", "\u2003em\u2003space", "\u3000ideographic\u3000", "\u200bzero\u200bwidth", "\u180emvs\u180e",
    "a\u0085b", "a\u2028b\u2029c", "\ufeffBOM", "soft\u00adhyphen", "\x00", "a\x00b", "\x00\x00", "\x01\x02\x1f\x7f",
    "é", "e\u0301", "ÅÅÅ", "\u212b \u0041\u030a", "ﬁ ﬂ ﬃ", "Ⅷ ℃ ㎏ ™", "ǆ ǅ Ǆ", "İstanbul ıİiI", "ΣΑΣ σας ς",
    "straße STRASSE ẞ", "naïve café résumé", "Zażółć gęślą jaźń", "Příliš žluťoučký kůň", "Việt Nam tiếng Việt",
    "Привет, мир! Как дела?", "Ελληνικά κείμενο", "עברית שלום", "مرحبا بالعالم", "हिन्दी नमस्ते", "বাংলা", "தமிழ் வணக்கம்",
    "ไทยสวัสดี", "ລາວ", "မြန်မာ", "ខ្មែរ", "한국어 안녕하세요", "\u1112\u1161\u11ab", "日本語の文章です。", "カタカナ ｶﾀｶﾅ", "中文分词，测试。", "繁體中文",
    "𠀀𠀁 𪛖", "你好，世界！Hello 世界 123", "العدد ١٢٣ و 456", "👍", "👍🏽", "👨‍👩‍👧‍👦", "🇩🇪🇫🇷", "🏳️‍🌈", "❤️", "☺", "1️⃣", "🫠🫡🪿", "a👍b", "👍👍👍",
    "🧑🏿‍🚀 in space", "\u200d", "\ufe0f", "\U0001f1e6", "\U000e0067", "zalgo: Z̴̝͑a̷̙͌l̶̬̈́g̶̱̕o̸̙͝",
    "In the beginning God created the heaven and the earth.", "And God said, Let there be light: and there was light.",
    "Im Anfang schuf Gott Himmel und Erde.", "Au commencement, Dieu créa les cieux et la terre.",
    "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|>", "<|im_end", "<|im_start|><|im_end|>",
    " <|endoftext|> ", "a<|endoftext|>b", "<s>", "</s>", "<unk>", "<s>Hi</s>", " <s> Hi </s> ", "[INST] x [/INST]", "<0x41>",
    "▁", "▁▁", "▁Hello", "Hello▁world", " ▁ ", "Ġ", "ĠHello", "ĊĊ", "Āā", "\ue000\uf8ff", "\U0010fffd", "\uffff", "\ufffd",
    "a" * 50, "ab" * 40, " " * 17, " " * 64, "\n" * 9, "=" * 33, "a " * 20, " a" * 20, "aA" * 12, "AaBbCc camelCase PascalCase snake_case",
    "XMLHttpRequest HTTPServer iPhone eBay McDonald", "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaft",
    "x" * 3 + "\n" * 3 + "y" * 3, "  leading and trailing  ", "tab\tseparated\tvalues", "mixed \t \n \r\n whitespace \u00a0 end",
    "word\n\n\nword", "word \n\n word", "word\r\rword", "?!\n\n", "?!\r\nx", "(a) [b] {c} <d>", "“quotes” ‘single’ «guillemets»",
    "em—dash en–dash", "ellipsis…", "bullet • point", "£100 €200 ¥300 ₹400", "±×÷≠≤≥∞√∑∫", "→←↑↓⇒⇔", "αβγ Δ ∂ ∇", "H₂O CO₂ x² y³",
    "\u0e33 \u0e4d\u0e32", "ﷺ", "\U0001d400\U0001d401", "ｆｕｌｌ ｗｉｄｔｈ　１２３", "①②③ Ⅰ Ⅱ", "\u1e9b\u0323", "\u0344", "\u0958", "\u2126", "\uf900\uf901",
    "\u0628\u0651\u064e", "q\u0307\u0323", "q\u0323\u0307", "\ud55c\uae00", "\u0cca", "\u09cb",
    "added token here", "lstrip   <mask>   rstrip", "foo<word>bar <word> <word>, <word>", "A<sep>  B", "A  <sep>B", "NORMAL normal Normal",
]

# First code points of blocks, and what Unicode added in versions 14 to 16.
BLOCK_STARTS = [
    0x80, 0x100, 0x180, 0x250, 0x2B0, 0x300, 0x370, 0x400, 0x500, 0x530, 0x590, 0x600, 0x700, 0x750, 0x780, 0x7C0, 0x800, 0x840, 0x870,
    0x8A0, 0x900, 0x980, 0xA00, 0xA80, 0xB00, 0xB80, 0xC00, 0xC80, 0xD00, 0xD80, 0xE00, 0xE80, 0xF00, 0x1000, 0x10A0, 0x1100, 0x1200,
    0x13A0, 0x1400, 0x1680, 0x16A0, 0x1700, 0x1780, 0x1800, 0x18B0, 0x1900, 0x1950, 0x1980, 0x1A00, 0x1A20, 0x1AB0, 0x1B00, 0x1B80,
    0x1C00, 0x1C50, 0x1C80, 0x1C90, 0x1CD0, 0x1D00, 0x1DC0, 0x1E00, 0x1F00, 0x2000, 0x2070, 0x20A0, 0x20D0, 0x2100, 0x2150, 0x2190,
    0x2200, 0x2300, 0x2400, 0x2440, 0x2460, 0x2500, 0x2580, 0x25A0, 0x2600, 0x2700, 0x27C0, 0x2800, 0x2900, 0x2A00, 0x2B00, 0x2C00,
    0x2C80, 0x2D00, 0x2D30, 0x2D80, 0x2E00, 0x2E80, 0x2F00, 0x2FF0, 0x3000, 0x3040, 0x30A0, 0x3100, 0x3130, 0x3190, 0x31C0, 0x3200,
    0x3300, 0x3400, 0x4DC0, 0x4E00, 0xA000, 0xA490, 0xA500, 0xA640, 0xA6A0, 0xA700, 0xA720, 0xA800, 0xA840, 0xA880, 0xA900, 0xA960,
    0xA980, 0xAA00, 0xAA60, 0xAB00, 0xAB30, 0xAB70, 0xABC0, 0xAC00, 0xD7B0, 0xE000, 0xF900, 0xFB00, 0xFB50, 0xFE00, 0xFE10, 0xFE20,
    0xFE50, 0xFE70, 0xFF00, 0xFFF0, 0x10000, 0x10100, 0x10280, 0x10300, 0x10400, 0x10570, 0x105C0, 0x10780, 0x10800, 0x10900, 0x10A00,
    0x10D40, 0x10E60, 0x10F70, 0x11000, 0x11380, 0x11600, 0x11A00, 0x11F00, 0x12000, 0x13000, 0x13440, 0x13460, 0x14400, 0x16100, 0x16800,
    0x16D40, 0x17000, 0x18CFF, 0x1AFF0, 0x1B000, 0x1BC00, 0x1CC00, 0x1CF00, 0x1D000, 0x1D2C0, 0x1D400, 0x1DF00, 0x1E030, 0x1E4D0, 0x1E5D0,
    0x1E800, 0x1EE00, 0x1F000, 0x1F100, 0x1F200, 0x1F300, 0x1F600, 0x1F680, 0x1F780, 0x1F900, 0x1FA70, 0x1FB00, 0x20000, 0x2A700, 0x2B740,
    0x2B820, 0x2CEB0, 0x2EBF0, 0x2F800, 0x30000, 0x31350, 0xE0000, 0xE0100, 0xF0000, 0x100000,
]

BROKEN = [
    b"\xff", b"\x80", b"\xc3", b"a\xc3", b"\xc3a", b"\xe4\xb8", b"\xe4\xb8\xad\xe4", b"\xf0\x9f\x91", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\xaf",
    b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"Hello \xff\xfe world", b"caf\xe9", b"\xef\xbb\xbfBOM", b"\x81 \x81", b" \x81", b"a\x00\xffb",
    b"\xe2\x96\x81\xe2\x96", b"\xff" * 9, b"12\xb234", b"\xd0\x9f\xd1\x80\xd0", b"\r\n\xff\r\n", b"<|im_start|>\xff<|im_end|>", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41",
]


def drawn(count, seed):
    """Texts put together from words, spaces, digits, punctuation and characters of all blocks."""
    draw = random.Random(seed)
    words = [w for text in WRITTEN for w in text.split(" ") if 0 < len(w) < 20]
    spaces = [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\u00a0", "\u3000", ""]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(1, 6)):
            kind = draw.random()
            if kind < 0.6:
                parts.append(draw.choice(words))
            elif kind < 0.75:
                parts.append(str(draw.randrange(10 ** draw.randint(1, 9))))
            elif kind < 0.85:
                parts.append("".join(draw.choice(".,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`") for _ in range(draw.randint(1, 4))))
            else:
                start = draw.choice(BLOCK_STARTS)
                parts.append("".join(chr(start + draw.randrange(0x30)) for _ in range(draw.randint(1, 3))))
            parts.append(draw.choice(spaces))
        texts.append("".join(parts))
    return texts


def all_texts():
    """Well-formed texts as str, then broken ones as bytes."""
    edges = []
    for start in BLOCK_STARTS:
        edges.append(chr(start - 1 if start != 0xE000 else start) + chr(start) + " x" + chr(start + 1))
    return WRITTEN + edges + drawn(1200, 1) + BROKEN
