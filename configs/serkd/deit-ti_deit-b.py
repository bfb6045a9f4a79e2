# A custom pair in three lines: DeiT-Ti learns from the zoo's DeiT-B. A model is a name of mmpretrain's zoo or a config file.
_base_ = './deit-ti_mae-b.py'
model = dict(teacher=dict(model='deit-base_16xb64_in1k', checkpoint=True))
