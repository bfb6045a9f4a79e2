# A teacher of timm by its name there: EVA-02 S (arXiv:2303.11331), evaluated at 336x336, sees the student's 224x224 pixels.
_base_ = './_base_/any_pair.py'
teacher = dict(model='timm:eva02_small_patch14_336.mim_in22k_ft_in1k', checkpoint=True)
model = dict(student=dict(model='deit-tiny-distilled_3rdparty_in1k'), teacher=teacher)
