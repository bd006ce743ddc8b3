"""Words of clinical reasoning whose exchange makes a statement wrong. Written for this package, from no list."""

from __future__ import annotations

import re
from collections.abc import Mapping


def _listed(text: str) -> list[str]:
    return re.findall(r"\S+", text)


def _pairs(text: str) -> dict[str, str]:
    """Both ways of every "one/other"."""
    split = [pair.partition("/") for pair in text.split(";")]
    pairs = {one.strip(): other.strip() for one, _, other in split}
    return pairs | {other: one for one, other in pairs.items()}


DIRECTIONS: Mapping[str, str] = _pairs(
    "increase/decrease; increases/decreases; increased/decreased; increasing/decreasing; elevated/reduced;"
    "raised/lowered; raises/lowers; raising/lowering; higher/lower; high/low; highest/lowest;"
    "upregulation/downregulation; upregulates/downregulates; upregulated/downregulated;"
    "tachycardia/bradycardia; tachycardic/bradycardic; vasoconstriction/vasodilation;"
    "bronchoconstriction/bronchodilation; systolic/diastolic; proximal/distal;"
    "anterior/posterior; medial/lateral; superior/inferior; afferent/efferent; acute/chronic; positive/negative;"
    "benign/malignant; agonist/antagonist; agonists/antagonists; activates/inhibits; activation/inhibition;"
    "activated/inhibited; excess/deficiency; acidosis/alkalosis; ipsilateral/contralateral; weight gain/weight loss;"
    "unilateral/bilateral; stimulates/suppresses; stimulation/suppression"
)
# Words that exist with both hyper- and hypo-.
PREFIXED = _listed(
    "kalemi natremi glycemi calcemi tensi volemi thermi ventilat thyroid parathyroid phosphatemi magnesemi "
    "reflexi capni lipidemi chloremi tonic pigment perfus algesi osmolal"
)
# What has a left and a right side; elsewhere "left" is a verb and "right" an adverb.
SIDED = _listed(
    "ventric atri arm leg lung lobe kidney eye ear hand foot hip knee shoulder breast hemispher side sided "
    "upper lower coronary main bundle heart iliac subclavian carotid renal femoral popliteal temporal parietal "
    "frontal occipital flank chest testi ovar optic axis colon hemi homonymous quadrant ankle wrist elbow "
    "thigh calf groin"
)
# Behind "lower" and "upper" these are parts of the body; "higher" would be none.
PARTS = _listed(
    "limb lobe extremit quadrant respiratory gastrointestinal gi back airway motor abdom leg lung esophag end"
)

GUIDELINES: Mapping[str, str] = _pairs(
    "first-line/second-line; is recommended/is not recommended; are recommended/are not recommended;"
    "should be/should not be; is contraindicated/is indicated; are contraindicated/are indicated; safe in/unsafe in;"
    "is required/is not required; inpatient/outpatient; oral therapy/intravenous therapy;"
    "orally/intravenously; monotherapy/combination therapy; systemic/topical; sensitivity/specificity;"
    "bacterial infection/viral infection; emergency surgery/elective surgery; sufficient/insufficient"
) | {"discontinue": "continue", "discontinued": "continued"}  # not the other way: "continues to rise"

UNITS: Mapping[str, tuple[str, ...]] = {
    "mg": ("g", "mcg"),
    "mcg": ("mg",),
    "µg": ("mg",),
    "g": ("mg",),
    "kg": ("g",),
    "mL": ("L",),
    "L": ("mL",),
    "mm": ("cm",),
    "cm": ("mm",),
    "mg/dL": ("g/dL", "mmol/L"),
    "g/dL": ("mg/dL",),
    "mmol/L": ("mg/dL",),
    "mEq/L": ("mg/dL",),
    "mmHg": ("cmH2O",),
    "mm Hg": ("cm H2O",),
    "°C": ("°F",),
    "minutes": ("hours",),
    "hours": ("days", "minutes"),
    "days": ("weeks", "hours"),
    "weeks": ("months", "days"),
    "months": ("years", "weeks"),
}
VALUED = (
    *UNITS,
    "%",
    "bpm",
    "beats",
    "breaths",
    "IU",
    "units",
    "mU/L",
    "ng/mL",
    "pg/mL",
    "U/L",
    "years",
    "/min",
    "kcal",
)

SEXES: Mapping[str, str] = _pairs(
    "man/woman; men/women; male/female; males/females; boy/girl; boys/girls; father/mother;husband/wife; gentleman/lady"
)
# Where these stand, another sex or age would contradict the sentence itself, and show.
PRONOUNS = _listed("he she his her him hers himself herself")
OF_ONE_AGE = _listed(
    "boy girl infant newborn neonat toddler child pediatric adolescen teenage school elderly geriatric menopaus"
)
OF_ONE_SEX = _listed("pregnan menstru menopaus ovar uter vagin cervical prostat testi peni scrot lactat gestation")

_CLASSES = (
    "metoprolol atenolol propranolol carvedilol; lisinopril enalapril ramipril captopril; losartan valsartan; "
    "atorvastatin simvastatin rosuvastatin; warfarin heparin apixaban rivaroxaban enoxaparin; aspirin clopidogrel "
    "ticagrelor; furosemide hydrochlorothiazide spironolactone; amoxicillin penicillin ceftriaxone azithromycin "
    "doxycycline ciprofloxacin vancomycin metronidazole clindamycin; metformin insulin glipizide empagliflozin; "
    "fluoxetine sertraline citalopram; haloperidol olanzapine clozapine risperidone; phenytoin valproate "
    "carbamazepine lamotrigine levetiracetam; morphine fentanyl oxycodone; naloxone; flumazenil; diazepam lorazepam "
    "midazolam; prednisone dexamethasone hydrocortisone; albuterol salmeterol tiotropium; ibuprofen naproxen "
    "indomethacin; acetaminophen; omeprazole pantoprazole; fluconazole itraconazole; acyclovir oseltamivir; "
    "levothyroxine; methimazole; amlodipine verapamil diltiazem nifedipine; amiodarone; digoxin; adenosine; "
    "ondansetron; methotrexate azathioprine; lithium; allopurinol colchicine; levodopa; donepezil; epinephrine"
)
DRUGS: Mapping[str, int] = {drug: at for at, group in enumerate(_CLASSES.split(";")) for drug in group.split()}
"""Drug -> its class; another class is another treatment."""
