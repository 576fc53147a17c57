"""Captions of the demo world: what alt texts say of a scene, in eight languages, and what they say instead."""

import numpy as np

from pipeline.pools.demo_world import Concept, Scene

#: How the world's own captions are written; {thing} is "a red star", {bare} "red star", {where} "in a field".
_PLAIN = (
    "a photo of {thing}", "a picture of {thing}", "{thing} {where}", "this is {thing} {where}",
    "illustration of {thing}",
    "{bare} clip art image", "my drawing of {thing}", "drawing of {thing} for kids", "how to draw {thing}",
    "{bare} stock illustration", "image of {thing} from our gallery", "there is {thing} in this picture",
    "look at {thing} {where}", "the {noun} we saw last summer", "{bare} poster for the living room",
    "we found {thing} {where} today", "{bare} sticker and greeting card", "cute {bare} cartoon", "picture with {thing}",
)  # fmt: skip
_DETAILED = (
    "{size} {texture}{bare} {where}", "hand drawn {texture}{bare} {where}, {extra}",
    "photo of {thing} {where}, {extra}", "{thing} {where}, {extra}",
    "simple drawing that shows {thing} {where}, {extra}",
    "{size} {texture}illustration of {thing} {where}", "vector art: {thing} {where} with soft shadow, {extra}",
)  # fmt: skip
_BRIEF = ("{noun}", "{bare}", "{bare}", "the {noun}", "{colour}")
_TAILS = ("", "", "", "", "", " | Drawings & More", " - {number}", " (c) 2016", " #{noun}", "...")

_FILE_NAMES = (
    "IMG_{number:04}.JPG", "DSC{number:05}.jpg", "P10{number:05}.JPG", "image{number}.png", "photo ({number}).jpg",
    "Screenshot_2017-03-{day:02} at 10.{day:02}.png", "{hexadecimal}.jpg", "DSC_{number:04}_edited-1.jpeg",
    "untitled-{day}.png",
    "0{day}_{number}_large.jpg",
)  # fmt: skip
_BOILERPLATE = (
    "buy now, free shipping on all orders", "click here to enlarge the image", "add to cart", "share this on Facebook",
    "subscribe to our newsletter and get 10% off", "best price guaranteed, order today!", "advertisement", "image",
    "you must be logged in to view this picture", "home page banner of our web site", "read more about this article",
    "see all customer reviews", "image may be subject to copyright", "cheap price free delivery hot sale {number}",
    "thumbnail for version as of 12:{day}, {day} March 2014", "product image {day} of 40", "sponsored by our partners",
    "logo", "profile picture of user {number}", "view of item number {number} in our shop",
)  # fmt: skip

#: Sentences in which a noun and a colour can stand without being inflected.
_FOREIGN = {
    "de": ("Ein Bild mit folgendem Motiv: {noun}, Farbe {colour}", "{noun} in der Farbe {colour}, von Hand gezeichnet",
           "Schönes Foto aus unserem Urlaub: {noun} ({colour})"),
    "fr": ("Dessin pour les enfants : {noun}, de couleur {colour}", "Une belle image avec {noun} en couleur {colour}",
           "{noun} de couleur {colour}, illustration gratuite à imprimer"),
    "es": ("Dibujo para niños: {noun} de color {colour}", "Una imagen bonita con {noun} de color {colour}",
           "{noun} de color {colour}, ilustración hecha a mano"),
    "zh": ("一张{colour}的{noun}的图片", "手绘{colour}{noun}插画素材", "孩子们喜欢的{colour}{noun}"),
    "ja": ("{colour}の{noun}のイラスト", "手描きの{noun}の絵（{colour}）", "きれいな{colour}の{noun}の写真です"),
    "ru": ("Картинка для детей: {noun}, цвет {colour}", "Красивое фото: {noun}, {colour} цвет",
    "Рисунок от руки — {noun}, цвет {colour}"),
    "ar": ("صورة جميلة: {noun} باللون ال{colour}", "رسم للأطفال: {noun} باللون ال{colour}",
    "{noun} باللون ال{colour} مرسوم باليد"),
}  # fmt: skip
_LANGUAGE_SHARES = (("de", 0.18), ("fr", 0.15), ("es", 0.17), ("zh", 0.14), ("ja", 0.14), ("ru", 0.14), ("ar", 0.08))

_NOUNS = """
star|Stern|étoile|estrella|星星|星|звезда|نجمة
heart|Herz|cœur|corazón|爱心|ハート|сердце|قلب
house|Haus|maison|casa|房子|家|дом|بيت
tree|Baum|arbre|árbol|树|木|дерево|شجرة
flower|Blume|fleur|flor|花朵|花|цветок|زهرة
car|Auto|voiture|coche|汽车|車|машина|سيارة
fish|Fisch|poisson|pez|鱼|魚|рыба|سمكة
cat|Katze|chat|gato|猫|猫|кошка|قطة
sun|Sonne|soleil|sol|太阳|太陽|солнце|شمس
moon|Mond|lune|luna|月亮|月|луна|قمر
bird|Vogel|oiseau|pájaro|小鸟|鳥|птица|طائر
apple|Apfel|pomme|manzana|苹果|りんご|яблоко|تفاحة
boat|Boot|bateau|barco|帆船|船|лодка|قارب
cloud|Wolke|nuage|nube|云朵|雲|облако|سحابة
cup|Tasse|tasse|taza|杯子|カップ|чашка|كوب
key|Schlüssel|clé|llave|钥匙|鍵|ключ|مفتاح
umbrella|Regenschirm|parapluie|paraguas|雨伞|傘|зонт|مظلة
mushroom|Pilz|champignon|seta|蘑菇|きのこ|гриб|فطر
butterfly|Schmetterling|papillon|mariposa|蝴蝶|蝶|бабочка|فراشة
hat|Hut|chapeau|sombrero|帽子|帽子|шляпа|قبعة
book|Buch|livre|libro|书|本|книга|كتاب
bottle|Flasche|bouteille|botella|瓶子|瓶|бутылка|زجاجة
bell|Glocke|cloche|campana|铃铛|鐘|колокол|جرس
crown|Krone|couronne|corona|皇冠|王冠|корона|تاج
candle|Kerze|bougie|vela|蜡烛|ろうそく|свеча|شمعة
balloon|Luftballon|ballon|globo|气球|風船|воздушный шар|بالون
clock|Uhr|horloge|reloj|时钟|時計|часы|ساعة
leaf|Blatt|feuille|hoja|叶子|葉っぱ|лист|ورقة شجر
rocket|Rakete|fusée|cohete|火箭|ロケット|ракета|صاروخ
guitar|Gitarre|guitare|guitarra|吉他|ギター|гитара|قيثارة
hammer|Hammer|marteau|martillo|锤子|ハンマー|молоток|مطرقة
ladder|Leiter|échelle|escalera|梯子|はしご|лестница|سلم
anchor|Anker|ancre|ancla|船锚|錨|якорь|مرساة
arrow|Pfeil|flèche|flecha|箭头|矢印|стрелка|سهم
chair|Stuhl|chaise|silla|椅子|椅子|стул|كرسي
robot|Roboter|robot|robot|机器人|ロボット|робот|روبوت
cactus|Kaktus|cactus|cactus|仙人掌|サボテン|кактус|صبار
kite|Drachen|cerf-volant|cometa|风筝|凧|воздушный змей|طائرة ورقية
flag|Fahne|drapeau|bandera|旗帜|旗|флаг|علم
envelope|Briefumschlag|enveloppe|sobre|信封|封筒|конверт|ظرف
"""
_COLOURS = """
red|Rot|rouge|rojo|红色|赤|красный|أحمر
blue|Blau|bleue|azul|蓝色|青|синий|أزرق
green|Grün|verte|verde|绿色|緑|зелёный|أخضر
yellow|Gelb|jaune|amarillo|黄色|黄色|жёлтый|أصفر
black|Schwarz|noire|negro|黑色|黒|чёрный|أسود
white|Weiß|blanche|blanco|白色|白|белый|أبيض
orange|Orange|orange|naranja|橙色|オレンジ|оранжевый|برتقالي
purple|Lila|violette|morado|紫色|紫|фиолетовый|بنفسجي
pink|Rosa|rose|rosa|粉色|ピンク|розовый|وردي
brown|Braun|marron|marrón|棕色|茶色|коричневый|بني
"""


def _table(text: str) -> dict[str, dict[str, str]]:
    rows = [line.split("|") for line in text.strip().splitlines()]
    return {english: dict(zip(_FOREIGN, others, strict=True)) for english, *others in rows}


#: The English words of the world in the other languages: word, language, translation.
TRANSLATIONS = _table(_NOUNS) | _table(_COLOURS)

_PLURALS = {"fish": "fish", "butterfly": "butterflies", "leaf": "leaves", "cactus": "cacti"}
_WHERE = {"blur": "in front of a blurry background", "field": "in a green field", "beach": "on the beach",
          "room": "on the floor of a room", "night": "at night under the sky"}  # fmt: skip


def _choose(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _phrases(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """What the templates' names stand for in this scene. Now and then a caption leaves the colour out."""
    count = len(scene.spots)
    noun = scene.concept.shape if count == 1 else _PLURALS.get(scene.concept.shape, scene.concept.shape + "s")
    bare = noun if rng.random() < 0.15 else f"{scene.concept.colour} {noun}"
    article = ("an" if bare[0] in "aeiou" else "a") if count == 1 else ("two", "three")[count - 2]
    where = _WHERE.get(scene.place) or f"on {'a' if scene.backdrop != 'orange' else 'an'} {scene.backdrop} " + (
        "background" if scene.place == "studio" else "sheet of paper")  # fmt: skip
    large = scene.spots[0][2] > 0.34 * min(scene.width, scene.height)
    side = ("on the left", "in the middle", "on the right")[min(2, int(3 * scene.spots[0][0] / scene.width))]
    extra = "beside a smiling person" if scene.face else side if count == 1 else "side by side"
    texture = "" if scene.texture == "plain" else scene.texture + " "
    return {"noun": noun, "bare": bare, "thing": f"{article} {bare}",
    "where": where, "size": "large" if large else "small",
            "extra": extra, "texture": texture, "colour": scene.concept.colour}  # fmt: skip


def _english(templates: tuple[str, ...], scene: Scene, rng: np.random.Generator) -> str:
    text = _choose(templates, rng) + (_choose(_TAILS, rng) if templates is not _BRIEF else "")
    text = text.format(**_phrases(scene, rng), number=rng.integers(10_000))
    return (text, text[0].upper() + text[1:], text.title())[rng.choice(3, p=(0.35, 0.5, 0.15))]


def detailed(scene: Scene, rng: np.random.Generator) -> str:
    """An English caption that also says how and where the thing is shown."""
    return _english(_DETAILED, scene, rng)


def plain(scene: Scene, rng: np.random.Generator) -> str:
    """An English caption that names the thing in three words or more."""
    return _english(_PLAIN, scene, rng)


def brief(scene: Scene, rng: np.random.Generator) -> str:
    """One or two English words that fit."""
    return _english(_BRIEF, scene, rng)


def foreign(concept: Concept, rng: np.random.Generator) -> str:
    """A caption that fits, in one of seven languages that are not English."""
    languages, shares = zip(*_LANGUAGE_SHARES, strict=True)
    language = languages[rng.choice(len(languages), p=shares)]
    words = {"noun": TRANSLATIONS[concept.shape][language], "colour": TRANSLATIONS[concept.colour][language]}
    return _choose(_FOREIGN[language], rng).format(**words)


def file_name(rng: np.random.Generator) -> str:
    """What a camera or a page's editor called the file."""
    numbers = {"number": rng.integers(10_000), "day": rng.integers(1, 31), "hexadecimal": rng.bytes(8).hex()}
    return _choose(_FILE_NAMES, rng).format(**numbers)


def boilerplate(rng: np.random.Generator) -> str:
    """Words that stand beside any picture of a shop or a page."""
    text = _choose(_BOILERPLATE, rng).format(number=rng.integers(10_000), day=rng.integers(10, 31))
    return text if rng.random() < 0.4 else text[0].upper() + text[1:]


def empty(rng: np.random.Generator) -> str | None:
    """No caption: an empty string, only spaces, or null."""
    return ("", "  ", None)[rng.choice(3, p=(0.6, 0.2, 0.2))]
