{{/* A host's pod: the raylet under which Ray starts kuaka's agent and workers. (dict "root" $ "name" N "group" G) */}}

{{/* Intel's device plugins give these out. */}}
{{- define "kuaka.deviceResources" -}}
{{- $names := dict "dsa" "dsa.intel.com/wq-user-shared" "iaa" "iaa.intel.com/wq-user-shared" "qat" "qat.intel.com/dc" -}}
{{- range $kind, $count := . -}}
{{- if gt (int $count) 0 }}
{{ get $names $kind }}: {{ $count | int | toString | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kuaka.hostResources" -}}
{{- $own := default .root.Values.hosts.resources .group.resources -}}
{{- $devices := include "kuaka.deviceResources" (default dict .group.accelerators) | fromYaml -}}
requests: {{- merge (dict) $devices (default dict $own.requests) | toYaml | nindent 2 }}
limits: {{- merge (dict) $devices (default dict $own.limits) | toYaml | nindent 2 }}
{{- end -}}

{{/* A volume's name for a path of the host. */}}
{{- define "kuaka.hostVolume" -}}
host-{{ . | trimAll "/" | lower | replace "/" "-" | replace "_" "-" | replace "." "-" | trunc 40 | trimSuffix "-" }}-{{ . | sha256sum | trunc 6 }}
{{- end -}}

{{- define "kuaka.hostPod" -}}
{{- $root := .root -}}
{{- $hosts := .root.Values.hosts -}}
{{- $secret := default .root.Values.linkTls.secretName .group.linkTlsSecretName -}}
{{- $tolerations := default $hosts.tolerations .group.tolerations -}}
metadata:
  labels:
    {{- include "kuaka.labels" $root | nindent 4 }}
    app.kubernetes.io/component: host
  {{- with $hosts.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "kuaka.podCommon" $root | nindent 2 }}
  {{- if $hosts.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- with $hosts.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .group.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  # A machine is one host.
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "kuaka.hostLabels" $root | nindent 14 }}
  containers:
    - name: ray-worker
      {{- include "kuaka.image" $root | nindent 6 }}
      securityContext:
        {{- include "kuaka.containerSecurity" $root | nindent 8 }}
      env:
        {{- include "kuaka.environment" $root | nindent 8 }}
        - {name: KUAKA_RUNTIME, value: {{ $hosts.runtimeDirectory | quote }}}
      ports:
        - {name: metrics, containerPort: {{ $hosts.ports.metrics }}}
        - {name: node-manager, containerPort: {{ $hosts.ports.nodeManager }}}
        - {name: object-manager, containerPort: {{ $hosts.ports.objectManager }}}
        {{- with include "kuaka.exporterPorts" $root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      {{- include "kuaka.probes" (dict "port" $hosts.ports.dashboardAgent "path" "/api/local_raylet_healthz") | nindent 6 }}
      resources: {{- include "kuaka.hostResources" . | nindent 8 }}
      volumeMounts:
        {{- include "kuaka.scratchMounts" $root | nindent 8 }}
        - {name: runtime, mountPath: {{ $hosts.runtimeDirectory | quote }}}
        {{- range $hosts.directories }}
        - {name: {{ include "kuaka.hostVolume" .path }}, mountPath: {{ .path | quote }}, readOnly: {{ default false .readOnly }}}
        {{- end }}
        {{- if or $secret $root.Values.linkTls.hostDirectory }}
        - {name: link-tls, mountPath: /etc/kuaka/tls, readOnly: true}
        {{- end }}
  volumes:
    {{- include "kuaka.scratchVolumes" $root | nindent 4 }}
    # It must be there already: what the kubelet would make belongs to root.
    - name: runtime
      hostPath: {path: {{ $hosts.runtimeDirectory | quote }}, type: Directory}
    {{- range $hosts.directories }}
    - name: {{ include "kuaka.hostVolume" .path }}
      hostPath: {path: {{ .path | quote }}, type: Directory}
    {{- end }}
    {{- if $secret }}
    - name: link-tls
      secret:
        secretName: {{ $secret | quote }}
        # 0440: the files are root's, and this user's group reads them.
        defaultMode: 288
    {{- else if $root.Values.linkTls.hostDirectory }}
    - name: link-tls
      hostPath: {path: {{ $root.Values.linkTls.hostDirectory | quote }}, type: Directory}
    {{- end }}
{{- end -}}
