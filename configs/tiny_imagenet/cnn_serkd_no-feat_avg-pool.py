# SeRKD without L_F, with average pooling.
_base_ = './cnn_serkd_avg-pool.py'
model = dict(losses=dict(loss_feat=None))
