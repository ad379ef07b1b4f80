{{/* What the pods of head and hosts have in common. */}}

{{- define "kuaka.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.user.uid }}
runAsGroup: {{ .Values.user.gid }}
fsGroup: {{ .Values.user.gid }}
# Once only: at every start it would make the journal's directory writable for the group, which kuaka refuses.
fsGroupChangePolicy: OnRootMismatch
{{- with .Values.user.supplementalGroups }}
supplementalGroups: {{ toJson . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "kuaka.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "kuaka.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* The first four are pipeline/fleet/ray_environment.py's, for the processes that a command does not start. */}}
{{- define "kuaka.environment" -}}
- {name: RAY_memory_monitor_refresh_ms, value: "0"}
- {name: RAY_worker_niceness, value: "0"}
- {name: OPENBLAS_NUM_THREADS, value: "1"}
- {name: RAY_ENABLE_UV_RUN_RUNTIME_ENV, value: "0"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
# The user has no name in the image, and Ray asks for one.
- {name: HOME, value: /home/kuaka}
- {name: USER, value: kuaka}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- if .Values.metrics.podMonitor.enabled }}
- {name: KUAKA_METRICS_PORT, value: {{ .Values.metrics.port | int | toString | quote }}}
- name: KUAKA_METRICS_ADDRESS
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end }}
{{- with .Values.ray.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kuaka.scratchMounts" -}}
- {name: home, mountPath: /home/kuaka}
- {name: temporary, mountPath: /tmp}
- {name: shared-memory, mountPath: /dev/shm}
{{- end -}}

{{- define "kuaka.scratchVolumes" -}}
- name: home
  emptyDir: {sizeLimit: 64Mi}
- name: temporary
  emptyDir: {sizeLimit: 4Gi}
- name: shared-memory
  emptyDir: {medium: Memory, sizeLimit: 256Mi}
{{- end -}}

{{- define "kuaka.podCommon" -}}
serviceAccountName: {{ include "kuaka.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "kuaka.podSecurity" . | nindent 2 }}
{{- end -}}

{{/* Ray's own health pages need no token. (dict "port" N "path" P) */}}
{{- define "kuaka.probes" -}}
startupProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}}
  periodSeconds: 3
  failureThreshold: 60
readinessProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 10
livenessProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 12
{{- end -}}

{{/* kuaka's exporters, in the order of scheduler/metrics_server.py. Without a PodMonitor they stay on loopback. */}}
{{- define "kuaka.exporterPorts" -}}
{{- if .Values.metrics.podMonitor.enabled }}
{{- range $index, $name := include "kuaka.exporters" . | fromJsonArray }}
- {name: {{ $name }}, containerPort: {{ add $.Values.metrics.port $index }}}
{{- end }}
{{- end }}
{{- end -}}
