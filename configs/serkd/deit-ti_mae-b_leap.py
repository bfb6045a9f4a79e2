# LEAP's curriculum (arXiv:2606.19483) beside labels: L_F against a block of the teacher that moves from shallow to deep. The
# teacher stops after it, so there are no logits, and both heads of the student learn the labels.
_base_ = './deit-ti_mae-b_fitnet.py'
block = 'backbone.layers[{}] | backbone.ln2'
model = dict(
    student=dict(model=dict(head=dict(distilled_training=False)), taps=dict(patches='backbone.ln1')),
    teacher=dict(taps=dict(patches='backbone.layers[0] | backbone.ln2')),
    losses=dict(loss_kd=None),
)
curriculum = dict(type='TapCurriculumHook', tap='patches', paths=block, loss='loss_feat', threshold=0.8, max_epochs=5)
custom_hooks = [*_base_.custom_hooks, curriculum]
