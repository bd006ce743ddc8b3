"""Words to sort: stems of ours with common beginnings and endings, some twenty thousand forms. A few are no English
words; what counts is that their letters follow each other as in English, and that many begin alike."""

from __future__ import annotations

import random
import re

STEMS: tuple[str, ...] = tuple(
    re.findall(
        r"\w+",
        """
        act add age aim air alarm ample angle ankle apple arch arm art ash ask atom aunt axis back badge bake ball
        band bank bar bark base bath beach beam bean bear beat bell belt bench berry bind bird bite blade blank
        blast blend block bloom blow boat body bolt bond bone book boot border bottle bound bowl box brace brain
        branch brand brave bread break brick bridge brief bright broad brook broom brush bubble bucket bud build
        bulb bump burn bus butter button cabin cable cake call calm camp candle cane cap car card care carpet cart
        carve case cast castle cause cave cell cement chain chair chalk chamber chance change charm chart chase
        cheer chest chief child chill chord circle city claim clamp class clay clean clerk cliff climb clock cloth
        cloud club coach coal coast coat code coin cold collar colour comb comet cook cool copper copy cord cork
        corn cost cotton couch count cover crab craft crane crash cream creek crew crisp crop cross crowd crown
        crust crystal cup curb cure current curve cycle damp dance danger dark dart dawn deal dear debt deck deep
        deer desk dial dinner dip dirt dish disk dive dock doll door dot dough down draft drain draw dream dress
        drift drill drink drive drop drum dry duck duke dust eagle ear earth east easy echo edge effort egg elbow
        elm empire engine entry equal error escape estate event ever exact exit eye fabric face fact fade fail faint
        fair faith fall fame fan farm fast fault feast feather fence fern ferry fever field fig figure film final
        find finger fire firm fish fit flag flame flat fleet flesh flight float flock floor flour flow fluid flute
        fly foam fog fold food foot force ford forest fork form fort fossil frame fresh friend frog front frost
        fruit fuel full fund fur gain game gap garden garlic gas gate gather gauge gear gem ghost giant gift glad
        glass globe glory glove glue goal goat gold good gown grade grain grand grant grape grass gravel great green
        grey grid grief grill grip ground group grove grow guard guest guide guild guitar gulf gum gust habit hail
        hair half hall hammer hand harbour hard harp harvest haste hat hawk hay hazel head heal heap heart heat
        heavy hedge heel helm help herb herd hero hill hinge hip hold hole home honey hood hook hope horn horse host
        hotel hour house hum hunt hurry ice icon idea idle image inch index infant ink inlet insect iron island item
        ivory jacket jail jam jar jaw jelly jewel join joke joint jolly journal judge juice jump jury just keen keep
        kettle key kick kid kind king kit kite knee knife knight knit knob knot label lace lad lake lamb lamp land
        lane lantern large latch laugh lawn lead leaf lean leather ledge left lemon lend lens level lever lift light
        lily limb lime line lion lip list little live load loaf lobby lock lodge log lone long loop lord lot loud
        love lump lunar lunch lung magic mail main maple marble march mark market marsh mask mast match mate meadow
        meal mean meat medal melt memo mend mental metal mild mile milk mill mind mine minor mint mirror mist mix
        moan model moist moment money month mood moon moral morning moss motor mount mouse mouth move mud mule
        muscle music myth nail name narrow nation near neat neck needle nerve nest net never nice night noble nod
        noise noon north nose note novel number nurse nut oak oar oat object ocean odd offer office oil olive onion
        open opera orbit orchard order organ outer oven oval owl owner oxide pace pack paddle page pail pain paint
        pair palace palm pan panel panic paper parade park part party pass paste patch path pause pave pawn peace
        peach peak pear pebble peel pen pencil pepper perch period petal phase phone photo piano pick piece pier
        pigeon pile pilot pin pine pint pipe pitch place plain plan plant plate play plot plough plum pocket poem
        point pole polish pond pony pool porch port post potato pouch pound powder power press price pride prime
        print prison prize proof proud public pulse pump punch pupil pure purse push puzzle quail quake quarry quart
        queen quest quick quiet quill quilt quiz quote rabbit race rack radio raft rail rain raise rally ranch range
        rank rapid rare rate raven razor reach real rear reason recipe reef region relay relic rent reptile rescue
        rest result rhyme ribbon rice rich ride ridge rifle ring ripe rise risk river road roast robe robin rock rod
        roll roof room root rope rose rough round route royal ruby rude rug ruin rule rural rush rust saddle safe
        sage sail salad salt sand satin sauce save scale scarf scene school scope score scout screen screw sea seal
        search season seat second secret seed sense serve settle seven shade shadow shaft shake shape share shark
        sharp sheep sheet shelf shell shield shift ship shirt shoe shop shore short shout show shrimp side sign silk
        silver simple sink siren skate sketch skill skin skirt sky slate sleep slice slide slope slow small smart
        smile smoke smooth snail snake snow soap sock soft soil solar sole solid song soul sound soup south space
        spade spark speak spear speech spell spider spin spirit spoon sport spot spray spring square squash stable
        staff stage stair stamp stand star state steam steel stem step stick stiff still stone stool store storm
        story stove strange straw stream street string strong study style sugar suit summer sun supper surf swamp
        swan sweet swift swim sword table tail talk tall tank tape target taste tax tea teach team tear temple
        tender tent term test text theme thick thin thing thorn thread throat throne thumb thunder ticket tide tie
        tiger tile timber time tin tip tire title toast today token tomato tone tool tooth torch total touch tour
        towel tower town toy trace track trade trail train trap travel tray treat tree trend trial tribe trick trip
        troop truck true trunk trust truth tub tube tune tunnel turn turtle twig twin twist type ugly umbrella uncle
        under unit upper urban urge use usher vague valley value van vapour vase vast vault veil vein velvet verb
        verse vessel vest victor view villa vine violet violin visit vital vivid vocal voice volume vote vowel wage
        wagon waist walk wall walnut wander warm warn wash wasp waste watch water wave wax wealth weave wedge weed
        week weigh west whale wheat wheel whip whisper white whole wick wide wild will wind wine wing winter wire
        wise wish witch wolf wonder wood wool word work world worm worth wreck wrist write yacht yard yarn year
        yeast yellow yield yogurt yolk young zeal zebra zero zinc zone
        """,
    )
)
_BEFORE = ("un", "re", "in", "dis", "over", "out", "under", "pre", "fore", "sub", "inter", "trans", "con", "non")
_BEHIND = (
    "s",
    "ing",
    "er",
    "ed",
    "ly",
    "ness",
    "ment",
    "ful",
    "less",
    "able",
    "ish",
    "y",
    "ward",
    "man",
    "ton",
    "ette",
)
_PLAIN, _POSSESSIVE = 0.45, 0.01
LONGEST = 10  # letters that two words of a list may have to be compared by


def draw_word(rng: random.Random) -> str:
    """A stem, or one with a beginning or an ending."""
    word = rng.choice(STEMS)
    if rng.random() < _POSSESSIVE:
        return f"{word}'s"
    if rng.random() < _PLAIN:
        return word
    if rng.random() < 0.35:
        word = rng.choice(_BEFORE) + word
    if rng.random() < 0.75:
        word = (word.removesuffix("e") if rng.random() < 0.7 else word) + rng.choice(_BEHIND)
    return word


def draw_words(rng: random.Random, count: int) -> list[str]:
    """`count` different words whose order two letters settle, each time: none begins with another one, and no
    apostrophe decides.

    Half of the lists lean towards a few first letters, so that there is more to compare than these.
    """
    favoured = rng.sample(sorted({stem[0] for stem in STEMS}), max(2, count // 3)) if rng.random() < 0.5 else []
    found: list[str] = []
    while len(found) < count:
        word = draw_word(rng)
        if favoured and word[0] not in favoured and rng.random() < 0.6:
            continue
        if all(_told_apart(word, other) for other in found):
            found.append(word)
    return found


def _told_apart(one: str, two: str) -> bool:
    """By one of their first LONGEST letters."""
    letters = next(((a, b) for a, b in zip(one[:LONGEST], two[:LONGEST], strict=False) if a != b), ("", ""))
    return "".join(letters).isalpha()
