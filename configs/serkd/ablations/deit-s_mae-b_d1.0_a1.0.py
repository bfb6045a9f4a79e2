# Table VII: lambda_D = 1.0, lambda_A = 1.0.
_base_ = '../deit-s_mae-b.py'
model = dict(losses=dict(loss_rd=dict(loss_weight=1.0)))
