"""Pages in eleven languages and in every charset that is common for them, each with one damaged byte."""

from __future__ import annotations

import random

import pytest

from safety_ray.ingest.charset import to_text

SENTENCES = {
    "fr": (
        "À l’été, la forêt près du château était déserte.",
        "Les élèves rentrèrent tôt, fatigués mais très contents de leur œuvre.",
        "La maîtresse ouvrit la fenêtre et lut une leçon sur la rivière gelée.",
        "Où est passé le garçon qui vendait des crêpes ?",
        "Peut-être a-t-il déjà traversé la rivière.",
    ),
    "pl": (
        "Nad brzegiem rzeki stoi stara szkoła.",
        "Rano dzieci jedzą chleb i idą do klasy.",
        "Żółte liście spadają, gdy nauczycielka otwiera okno.",
        "Później wszyscy wracają przez most do domu.",
        "Chłopiec niósł koszyk pełen świeżych jabłek.",
    ),
    "tr": (
        "Nehrin kıyısında eski bir okul var.",
        "Sabahları çocuklar ekmek yiyerek sınıfa gider.",
        "Öğretmen pencereyi açıp derse başlar.",
        "Akşam olunca herkes köprüden geçip evine döner.",
        "Küçük kız sepetinde taze elmalar taşıyordu.",
    ),
    "ru": (
        "На берегу реки стоит старая школа.",
        "Утром дети едят хлеб и идут в класс.",
        "Учительница открывает окно и начинает урок.",
        "Вечером все возвращаются домой через мост.",
        "Мальчик нёс корзину свежих яблок.",
    ),
    "el": (
        "Στην όχθη του ποταμού υπάρχει ένα παλιό σχολείο.",
        "Το πρωί τα παιδιά τρώνε ψωμί και πηγαίνουν στην τάξη.",
        "Η δασκάλα ανοίγει το παράθυρο και αρχίζει το μάθημα.",
        "Το βράδυ όλοι γυρίζουν σπίτι από τη γέφυρα.",
        "Ένα αγόρι κρατούσε ένα καλάθι με μήλα.",
    ),
    "he": (
        "על גדת הנהר עומד בית ספר ישן.",
        "בבוקר הילדים אוכלים לחם והולכים לכיתה.",
        "המורה פותחת את החלון ומתחילה את השיעור.",
        "בערב כולם חוזרים הביתה דרך הגשר.",
        "ילד נשא סל מלא תפוחים טריים.",
    ),
    "ar": (
        "على ضفة النهر توجد مدرسة قديمة.",
        "في الصباح يأكل الأطفال الخبز ويذهبون إلى الصف.",
        "تفتح المعلمة النافذة وتبدأ الدرس.",
        "في المساء يعود الجميع إلى البيت عبر الجسر.",
        "كان ولد يحمل سلة من التفاح.",
    ),
    "th": (
        "ริมแม่น้ำมีโรงเรียนเก่าแห่งหนึ่ง",
        "ตอนเช้าเด็กๆ กินขนมปังแล้วเดินไปห้องเรียน",
        "ครูเปิดหน้าต่างแล้วเริ่มสอน",
        "ตอนเย็นทุกคนเดินข้ามสะพานกลับบ้าน",
        "เด็กชายถือตะกร้าแอปเปิล",
    ),
    "zh": (
        "春天的早晨，河边的老学校很安静。",
        "孩子们吃着面包走进教室。",
        "老师打开窗户，开始上课。",
        "傍晚大家走过桥回家。",
        "一个男孩提着一篮新鲜的苹果。",
    ),
    "zh-tw": (
        "春天的早晨，河邊的老學校很安靜。",
        "孩子們吃著麵包走進教室。",
        "老師打開窗戶，開始上課。",
        "傍晚大家走過橋回家。",
        "一個男孩提著一籃新鮮的蘋果。",
    ),
    "ja": (
        "川のそばに古い学校があります。",
        "朝になると子どもたちはパンを食べながら歩いてきます。",
        "先生は窓を開けて授業を始めます。",
        "夕方にはみんなが橋を渡って家に帰ります。",
        "男の子が新しいりんごのかごを持っていました。",
    ),
    "ko": (
        "강가에 오래된 학교가 있습니다.",
        "아침이 되면 아이들이 빵을 먹으며 걸어옵니다.",
        "선생님은 창문을 열고 수업을 시작합니다.",
        "저녁에는 모두 다리를 건너 집으로 돌아갑니다.",
        "한 소년이 신선한 사과 바구니를 들고 있었습니다.",
    ),
}
LEGACY = {
    "fr": ("cp1252",),
    "pl": ("cp1250", "iso8859-2"),
    "tr": ("cp1254",),
    "ru": ("cp1251", "koi8-r"),
    "el": ("cp1253",),
    "he": ("cp1255",),
    "ar": ("cp1256",),
    "th": ("cp874",),
    "zh": ("gb18030",),
    "zh-tw": ("big5",),
    "ja": ("shift_jis", "euc_jp"),
    "ko": ("euc_kr",),
}
UNICODE = ("utf-8", "utf-16-le", "utf-16-be")
LABELS = {"cp1250": "windows-1250", "cp874": "windows-874", "shift_jis": "Shift_JIS"}
"""Names that differ from Python's"""


def lines_of(language: str, charset: str, label: str) -> list[str]:
    meta = f'<meta charset="{label}">' if label else ""
    sentences = SENTENCES[language]
    pairs = [(sentences[n % 5], sentences[(n * 3 + 1) % 5]) for n in range(8)]
    lines = [f"<!DOCTYPE html><html><head>{meta}<title>{sentences[0]}</title></head><body>"]
    lines += [f"<p>{first} {second}</p>" for first, second in pairs]
    # Without characters that the charset lacks, such as a curly quote in ISO 8859.
    return [line.encode(charset, "ignore").decode(charset) + "\n" for line in [*lines, "</body></html>"]]


def damaged(line: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(3, len(line) - 5)
    byte = rng.choice([0xFF, 0x3F, line[position] ^ 0x80 or 1, rng.randrange(1, 256)])
    return line[:position] + bytes([byte]) + line[position + 1 :]


@pytest.mark.parametrize("declared", ["rightly", "wrongly", "not at all"])
@pytest.mark.parametrize(
    ("language", "charset"),
    [(language, name) for language, names in LEGACY.items() for name in (*UNICODE, *names)],
)
def test_to_text_decodes_damaged_page(language: str, charset: str, declared: str) -> None:
    """All lines but the damaged one are as they were written."""
    wrong = ("iso-8859-1", "iso-8859-1" if charset in UNICODE else "utf-8")
    for seed in range(4):
        rng = random.Random(f"{language} {charset} {seed}")
        right = LABELS.get(charset, charset)
        label = {"rightly": right, "wrongly": wrong[seed // 2], "not at all": ""}[declared]
        lines = lines_of(language, charset, label if seed % 2 else "")
        encoded = [line.encode(charset) for line in lines]
        number = rng.randrange(1, len(lines) - 1)
        encoded[number] = damaged(encoded[number], rng)
        header = f"text/html; charset={label}" if label and not seed % 2 else "text/html"
        text = to_text(b"".join(encoded), header)
        before, after = "".join(lines[:number]), "".join(lines[number + 1 :])
        assert text.startswith(before), (seed, text[:200])
        assert text.endswith(after), (seed, text[-200:])


def short_text(language: str, rng: random.Random) -> str:
    between = rng.choice(["", "\n"] if language in ("zh", "zh-tw", "ja", "th") else [" ", "\n"])
    return between.join(rng.choices(SENTENCES[language], k=40))[: rng.randrange(60, 301)]


@pytest.mark.parametrize("declared", ["", "; charset=utf-16", "; charset="])
@pytest.mark.parametrize("markup", ["", "<html><body><p>"])
@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("language", SENTENCES)
def test_to_text_decodes_short_utf16_without_mark(
    language: str, charset: str, markup: str, declared: str
) -> None:
    header = "text/html" + declared + (charset.replace("16-", "16") if declared.endswith("=") else "")
    for seed in range(10):
        rng = random.Random(f"{language} {charset} {markup} {declared} {seed}")
        body = (markup + short_text(language, rng)).encode(charset)
        assert to_text(body, header) == body.decode(charset)
        body = damaged(body, rng)
        assert to_text(body, header) == body.decode(charset, "replace")


@pytest.mark.parametrize("declared", ["", "; charset=utf-16", "; charset=utf-16be"])
@pytest.mark.parametrize(
    ("language", "charset"),
    [(language, name) for language, names in LEGACY.items() for name in ("utf-8", *names)],
)
def test_to_text_detects_no_utf16_in_other_charsets(language: str, charset: str, declared: str) -> None:
    """Not even if it is declared and a damaged byte is a control character."""
    for seed in range(10):
        rng = random.Random(f"{language} {charset} {declared} {seed}")
        body = short_text(language, rng).encode(charset, "ignore")
        for text in (body, body[:20] + bytes([rng.randrange(32)]) + body[21:], b"<p>\t\t\n\n\0" + body):
            found = to_text(text, f"text/html{declared}")
            assert found not in (text.decode("utf-16-le", "replace"), text.decode("utf-16-be", "replace"))


def test_to_text_detects_no_utf16_in_random_bytes() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        body = rng.randbytes(rng.randrange(40, 2000))
        for header in ("text/plain", "text/plain; charset=utf-16le"):
            found = to_text(body, header)
            assert found not in (body.decode("utf-16-le", "replace"), body.decode("utf-16-be", "replace"))


def test_to_text_replaces_invalid_bytes() -> None:
    assert to_text("crème".encode()[:3]) == "cr�"
    assert to_text("<meta charset=utf-8> crème ".encode() + b"\xff end").endswith("crème � end")
    assert len(to_text(bytes(range(256)))) > 0
    for name in ("base64", "rot13", "undefined", "punycode", "zip", "utf-7", "idna"):
        assert "end" in to_text(b"caf\xe9 end", f"text/html; charset={name}")


def test_to_text_replaces_damaged_bytes_of_utf8() -> None:
    body = "".join(SENTENCES["ru"]).encode()
    assert to_text(body[:20] + b"\xff" + body[20:]) == body[:20].decode() + "\ufffd" + body[20:].decode()


@pytest.mark.parametrize("charset", ["iso-8859-15", "iso-8859-2", "macintosh", "windows-1257"])
def test_to_text_follows_declaration_of_similar_charset(charset: str) -> None:
    """They differ from the usual one in few letters only, which no guess can distinguish."""
    text = "Les élèves de l'école, fatigués, répétaient leur leçon à la fenêtre. " * 3
    body = text.encode(charset, "ignore")
    assert to_text(body, f"text/html; charset={charset}") == body.decode(charset)


def test_to_text_detects_no_utf16_in_text_with_zero_bytes() -> None:
    text = "a line of text with a zero byte at its end\0\n" * 20
    assert to_text(text.encode()) == text
    assert to_text(("\0" * 64 + text).encode()) == "\0" * 64 + text
